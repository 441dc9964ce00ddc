"""Two ways of doing something, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ...results.page import text as escaped
from ..table import Row, number
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, label, named, sentence, shown
from .style import GREY, axis, colour, described, marker, place, side_by_side

WITHOUT = ("none", "off", "false", "0")
"""What is without something comes first, so that a difference is what that thing does."""


@dataclass(frozen=True)
class _Pair:
    seed: str
    first: Row
    second: Row


@FIGURES.register("paired")
@dataclass(frozen=True, kw_only=True)
class Paired(Figure):
    """Left: y of the two values of `axis`, joined where all else is alike; right: the mean of the differences for each
    combination of `group`, with its 95 % interval (Student's t over the pairs)."""

    axis: str = "axis.model.feedback"
    y: str = "accuracy"
    values: tuple[str, ...] | None = None
    """Which comes first and which second; by default the two that are there, WITHOUT first."""
    by: tuple[str, ...] | None = None
    """What cells of a pair have in common; by default all axes that vary within a line: seeds, mostly."""
    group: tuple[str, ...] | None = None

    def heading(self) -> str:
        return self.title or sentence(f"{named(self.y)} by {named(self.axis)}, in pairs")

    def draw(self, cells: Cells) -> Plot:
        cells.need(self.axis, self.y)
        first, second = self._values(cells)
        both = [row for row in cells.rows if shown(row.get(self.axis)) in (first, second)]
        cells = Cells(both, cells.fits, cells)
        group = cells.group(self.group, self.axis, *(self.by or ()))
        rest = [
            key for key in cells.varying if key not in group and not cells.same(key, self.axis) and key != self.axis
        ]
        by = list(self.by) if self.by is not None else rest
        traces: list[Trace] = []
        rows: list[tuple[str, int, list[float], list[Row]]] = []
        for series in cells.series(group):
            pairs = self._pairs(series.rows, by, first, second)
            if pairs:
                look = {
                    "name": escaped(series.legend),
                    "legendgroup": series.legend,
                    "line": {"color": colour(series.style), "width": 1},
                }
                traces += [
                    self._joined(cells, pair, (first, second))
                    | look
                    | {"marker": marker(series.style, series.simulated), "showlegend": number == 0}
                    for number, pair in enumerate(pairs)
                ]
                differences = [self._of(pair.second) - self._of(pair.first) for pair in pairs]
                rows.append((series.legend, series.style, differences, [pair.second for pair in pairs]))
        if not rows:
            raise Nothing(f"no two cells are alike but for {named(self.axis)} = {first} and {second}, with {self.y}")
        traces += [self._mean(cells, *row) for row in rows]
        x = axis(named(self.axis), values=[first, second])
        names = [name for name, *_ in rows]
        drawn = side_by_side(
            x,
            axis(named(self.y)),
            axis("", values=names, type="category"),
            axis(f"{second} − {first}", zeroline=True, zerolinecolor=GREY),
        )
        said = "; ".join(f"{name + ': ' if len(rows) > 1 else ''}{_said(found)}" for name, _, found, _ in rows)
        return Plot(traces, drawn, f"{second} − {first}: {said}.")

    def _values(self, cells: Cells) -> tuple[str, str]:
        found = list(dict.fromkeys(shown(row[self.axis]) for row in cells.rows if row.get(self.axis) is not None))
        found.sort(key=lambda value: value not in WITHOUT)
        chosen = [shown(value) for value in self.values] if self.values else found
        if len(chosen) != 2:
            raise Nothing(f"{self.axis} has {len(chosen)} values ({', '.join(chosen)}); name two of them as values")
        return chosen[0], chosen[1]

    def _pairs(self, rows: Sequence[Row], by: Sequence[str], first: str, second: str) -> list[_Pair]:
        """A seed's cells on both sides; of several on one side the last."""
        found: dict[str, dict[str, Row]] = {}
        for row in rows:
            if number(row, self.y) is not None and row.get(self.axis) is not None:
                found.setdefault(label(row, by), {})[shown(row[self.axis])] = row
        return [
            _Pair(seed, sides[first], sides[second]) for seed, sides in found.items() if {first, second} <= {*sides}
        ]

    def _of(self, row: Row) -> float:
        return number(row, self.y) or 0.0

    def _joined(self, cells: Cells, pair: _Pair, values: tuple[str, str]) -> Trace:
        ends = [
            Point.at(value, self._of(row), row) for value, row in zip(values, (pair.first, pair.second), strict=True)
        ]
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "x": [place(p.x) for p in ends],
            "y": [p.y for p in ends],
            **described(cells, ends),
        }

    def _mean(self, cells: Cells, name: str, style: int, found: Sequence[float], rows: Sequence[Row]) -> Trace:
        half = _half(found)
        return {
            "type": "scatter",
            "mode": "markers",
            "name": escaped(name),
            "showlegend": False,
            "x": [place(name)],
            "y": [mean(found)],
            "error_y": {"type": "data", "array": [half or 0.0], "visible": half is not None, "width": 6},
            "marker": marker(style, bool(rows[0].get("simulated")), 11),
            "xaxis": "x2",
            "yaxis": "y2",
            "hoverinfo": "text",
            "hovertext": [f"{_said(found)}<br>{cells.hover(rows)}"],
            "customdata": [cells.place(rows)],
        }

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        axes = [key for key in cells.varying if key.endswith("feedback")]
        y = next((y for y in ("accuracy", "eval_loss", "loss") if cells.has(y)), None)
        return [cls(axis=key, y=y) for key in axes if y and len({repr(row.get(key)) for row in cells.rows}) == 2]


def _half(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean; None of one value, which has none."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))


def _said(values: Sequence[float]) -> str:
    half = _half(values)
    if half is None:
        return f"{values[0]:+.4g} of one pair, which has no interval"
    return f"{mean(values):+.4g} ± {half:.2g} (95 %, {len(values)} pairs)"
