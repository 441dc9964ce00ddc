"""Any column against any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .base import FIGURES, Cells, Figure, Nothing, Plot, is_seed, named, points, sentence
from .style import BARS, axis, layout, line


@FIGURES.register("curve")
@dataclass(frozen=True, kw_only=True)
class Curve(Figure):
    """y against x, a line for each combination of `group`; what is alike in x and in these is averaged."""

    x: str
    y: str
    group: tuple[str, ...] | None = None
    log: Literal["", "x", "y", "xy"] = ""

    def heading(self) -> str:
        return self.title or sentence(f"{named(self.y)} against {named(self.x)}")

    def draw(self, cells: Cells) -> Plot:
        cells.need(self.x, self.y)
        drawn = [(one, points(one.rows, self.x, self.y)) for one in cells.series(cells.group(self.group, self.x))]
        drawn = [(one, [p for p in found if self._can(p.x, "x") and self._can(p.y, "y")]) for one, found in drawn]
        drawn = [(one, found) for one, found in drawn if found]
        if not drawn:
            above = ", above 0 as the axes want them," if self.log else ""
            raise Nothing(f"no cell has numbers as {self.x} and {self.y}{above} yet")
        places = [p.x for _, found in drawn for p in found]
        x = axis(named(self.x), "x" in self.log, places)
        y = axis(named(self.y), "y" in self.log, [p.y for _, found in drawn for p in found])
        return Plot([line(cells, one, found) for one, found in drawn], layout(x, y), BARS)

    def _can(self, value: float | str, axis: str) -> bool:
        """Whether a value can be on this axis."""
        return axis not in self.log or isinstance(value, str) or value > 0

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        y = next((y for y in ("accuracy", "eval_loss", "loss") if cells.has(y)), None)
        where = ("axis.nodes", "axis.processes", "axis.gpus")  # these decide how fast a run is, not what it learns
        axes = [key for key in cells.varying if not is_seed(key) and key not in where]
        return [cls(x=key, y=y) for key in axes if cells.has(key)] if y else []
