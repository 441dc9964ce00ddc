"""The cells as a table."""

from __future__ import annotations

from dataclasses import dataclass

from .base import FIGURES, Cells, Figure, Table, named

ALWAYS = ("parameters", "flop_image", "flop_image_done")
"""In every table: a number of a model says little without its size and its cost."""
_COLUMNS = ("accuracy", "eval_loss", "loss", "steps", "world", "seconds_step", "images_second", "tflops", "mfu", "hfu")
_LAST = ("peak_gib", "gpu_hours", "good")


@FIGURES.register("table")
@dataclass(frozen=True, kw_only=True)
class Summary(Figure):
    """A line for each cell; columns: besides its name and state, its axes and ALWAYS. None: those that a study is
    mostly asked for, as far as some cell has them."""

    columns: tuple[str, ...] | None = None
    called = "Cells"

    def draw(self, cells: Cells) -> Table:
        if self.columns is not None:
            cells.need(*self.columns)
        asked = self.columns if self.columns is not None else (*_COLUMNS, *_LAST)
        known = {key for row in cells.rows for key, value in row.items() if value is not None}
        first = [key for key in ("cell", "state", *cells.axes) if key in known]
        shown = [*first, *ALWAYS, *(key for key in asked if key in known and key not in (*first, *ALWAYS))]
        body = [[self._value(row.get(key), key, bool(row.get("simulated"))) for key in shown] for row in cells.rows]
        return Table([named(key) for key in shown], body)

    def _value(self, value: object, column: str, simulated: bool) -> object:
        return f"{value or ''} (simulated)".strip() if column == "state" and simulated else value
