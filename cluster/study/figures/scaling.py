"""Speed against the number of processes, and the efficiency that it means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..table import number
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, named, points
from .style import BARS, axis, line, plain_line, side_by_side


@FIGURES.register("efficiency")
@dataclass(frozen=True, kw_only=True)
class Efficiency(Figure):
    """Left: speed and the ideal line of each series, from its least x on; right: measured over ideal, in %.
    scaling: whether all processes together share a fixed batch (strong), or each has one (weak); of a time's ideal."""

    x: str = "world"
    y: Literal["images_second", "seconds_step"] = "images_second"
    scaling: Literal["strong", "weak"] = "strong"
    group: tuple[str, ...] | None = None
    called = "Scaling"

    def draw(self, cells: Cells) -> Plot:
        cells.need(self.x, self.y)
        group = cells.group(self.group, self.x, *(f"axis.{word}" for word in ("nodes", "processes", "gpus")))
        traces: list[Trace] = []
        places: list[float] = []
        speeds: list[float] = []
        firsts: dict[str, Point] = {}
        for series in cells.series(group):
            found = [p for p in points(series.rows, self.x, self.y) if not isinstance(p.x, str) and p.x > 0 and p.y > 0]
            if not found:
                continue
            first = firsts.setdefault(series.name, found[0])  # measured comes before simulated
            at = [float(p.x) for p in found]
            ideal = [self._ideal(first, x) for x in at]
            efficient = [self._share(p, y) for p, y in zip(found, ideal, strict=True)]
            places += at
            speeds += [p.y for p in found]
            traces.append(line(cells, series, found))
            traces.append(line(cells, series, efficient, "2", showlegend=False))
            traces.append(plain_line(at, ideal, "ideal", showlegend=len(traces) == 2))
        if len(set(places)) < 2:
            raise Nothing(f"{named(self.x)}: cells with at least two values of it are needed, {len(set(places))} found")
        traces.append(plain_line([min(places), max(places)], [100, 100], "ideal", "2", showlegend=False))
        count = axis(named(self.x), True, places)
        speed = axis(named(self.y), True, speeds)
        return Plot(
            traces,
            side_by_side(count, speed, count, axis("efficiency (%)", rangemode="tozero")),
            f"Efficiency: against the fewest {named(self.x)} of the series. {BARS}",
        )

    def _ideal(self, first: Point, x: float) -> float:
        least = float(first.x)
        if self.y == "images_second":
            return first.y * x / least
        return first.y if self.scaling == "weak" else first.y * least / x

    def _share(self, point: Point, ideal: float) -> Point:
        """In %."""
        rate = self.y == "images_second"
        return point.changed(lambda y: 100 * (y / ideal if rate else ideal / y) if y > 0 else 0.0)

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        for y in ("images_second", "seconds_step"):
            if len({number(row, "world") for row in cells.rows if number(row, y) and number(row, "world")}) > 1:
                return [cls(y=y)]
        return []
