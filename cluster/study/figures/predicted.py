"""What `tdformer plan` said beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from ...results.page import text as escaped
from ..table import number
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, named, shown
from .style import GREY, axis, described, marker, place, plain_line, side_by_side


@FIGURES.register("predicted")
@dataclass(frozen=True, kw_only=True)
class Predicted(Figure):
    """Left: predicted against measured, with the diagonal; right: how far it is off, in % of the measured."""

    y: str = "seconds_step"
    group: tuple[str, ...] | None = ()

    def heading(self) -> str:
        return self.title or f"Predicted and measured: {named(self.y)}"

    def draw(self, cells: Cells) -> Plot:
        predicted = f"predicted.{self.y}"
        if not cells.has(self.y, predicted):
            raise Nothing(f"no cell has both {self.y} and {predicted} yet")
        traces: list[Trace] = []
        errors: list[tuple[float, str]] = []
        values: list[float] = []
        for series in cells.series(cells.group(self.group)):
            pairs = [(number(row, self.y), number(row, predicted), row) for row in series.rows]
            both = [(m, p, row) for m, p, row in pairs if m and p and m > 0 and p > 0]
            if not both:
                continue
            off = [(100 * (p / m - 1), shown(row.get("cell"))) for m, p, row in both]
            values += [value for m, p, _ in both for value in (m, p)]
            errors += off
            look = {
                "name": escaped(series.legend),
                "legendgroup": series.legend,
                "marker": marker(series.style, series.simulated),
            }
            at = [Point.at(m, p, row) for m, p, row in both]
            traces.append(
                {"type": "scatter", "mode": "markers", "x": [m for m, _, _ in both], "y": [p for _, p, _ in both]}
                | look
                | described(cells, at)
            )
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [place(name) for _, name in off],
                    "y": [error for error, _ in off],
                }
                | look
                | described(cells, [Point.at(name, error, p.rows[0]) for (error, name), p in zip(off, at, strict=True)])
                | {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
            )
        if not errors:
            raise Nothing(f"no cell has both {self.y} and {predicted} above 0")
        ends = [min(values) / 1.1, max(values) * 1.1]
        wide = ends[1] > 5 * ends[0]
        traces.append(plain_line(ends, ends, "predicted = measured"))
        names = [name for _, name in errors]
        most = max(abs(error) for error, _ in errors)
        off_by = median([abs(error) for error, _ in errors])
        x, y = (axis(f"{word}: {named(self.y)}", wide, values) for word in ("measured", "predicted"))
        cell = axis("cell", values=names, tickangle=-45, showticklabels=len(names) <= 12)
        error = axis("predicted over measured − 1 (%)", zeroline=True, zerolinecolor=GREY)
        drawn = side_by_side(x, y, cell, error)
        return Plot(traces, drawn, f"{len(errors)} cells: off by {off_by:.1f} % in the median, {most:.1f} % at most.")

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls(y=y) for y in ("seconds_step", "peak_gib") if cells.has(y, f"predicted.{y}")]
