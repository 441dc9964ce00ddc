"""Cells as bars of parts: of a step's time, of memory, of GPU-hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...results.page import text as escaped
from ..table import Row, number
from .base import FIGURES, Cells, Figure, Nothing, Plot, Trace, label, shown
from .style import ABOVE, PATTERNS, axis, colour, layout, marker

Heap = tuple[str, list[Row]]
"""A bar: its name, and the cells whose mean it is."""


def bars(
    cells: Cells,
    parts: Sequence[str],
    by: tuple[str, ...] | None,
    value: Callable[[Row, str], float | None] = number,
) -> tuple[list[Trace], list[Heap]]:
    """A stacked bar for each combination of the columns `by`, as traces and as heaps. value: of a cell and a part."""
    group = cells.group(by)
    found: dict[str, list[Row]] = {}
    for row in cells.rows:
        if any(value(row, part) is not None for part in parts):
            words = label(row, group) or shown(row.get("cell"))
            found.setdefault(f"{words}, simulated" if row.get("simulated") else words, []).append(row)
    heaps = list(found.items())
    traces = []
    for style, part in enumerate(parts):
        for hollow in (False, True):
            mine = [(words, rows) for words, rows in heaps if bool(rows[0].get("simulated")) == hollow]
            traces += [_bar(cells, mine, part, style, hollow, value)] if mine else []
    return traces, heaps


def _bar(
    cells: Cells,
    heaps: Sequence[Heap],
    part: str,
    style: int,
    hollow: bool,
    value: Callable[[Row, str], float | None],
) -> Trace:
    heights = [mean([value(row, part) or 0.0 for row in rows]) for _, rows in heaps]
    name = escaped("good" if part == "good" else part.rpartition(".")[2])
    inside, lines = ("#ffffff", colour(style)) if hollow else (colour(style), "#ffffff")
    said = [f"{name}: {y:.4g}<br>{cells.hover(rows)}" for y, (_, rows) in zip(heights, heaps, strict=True)]
    return {
        "type": "bar",
        "name": f"{name} (simulated)" if hollow else name,
        "x": [_below(words) for words, _ in heaps],
        "y": heights,
        "marker": {
            "color": inside,
            "line": {"color": colour(style), "width": 1.5},
            "pattern": {"shape": PATTERNS[style % len(PATTERNS)], "fgcolor": lines, "bgcolor": inside, "solidity": 0.2},
        },
        "hoverinfo": "text",
        "hovertext": said,
        "customdata": [cells.place(rows) for _, rows in heaps],
        "textposition": "none",
    }


def _below(words: str) -> str:
    """The name of a bar below it, an axis on each line."""
    return "<br>".join(escaped(word) for word in words.split(", "))


def whole(cells: Cells, heaps: Sequence[Heap], column: str, name: str) -> list[Trace]:
    """What was measured of all parts together: a mark on each bar, with quartiles where cells have them."""
    found = [(words, [row for row in rows if number(row, column) is not None]) for words, rows in heaps]
    found = [(words, rows) for words, rows in found if rows]
    heights = [mean([number(row, column) or 0.0 for row in rows]) for _, rows in found]
    ends = {
        end: [mean([_or(number(row, f"{column}_{end}"), number(row, column)) for row in rows]) for _, rows in found]
        for end in ("low", "high")
    }
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_below(words) for words, _ in found],
        "y": heights,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - y for high, y in zip(ends["high"], heights, strict=True)],
            "arrayminus": [y - low for low, y in zip(ends["low"], heights, strict=True)],
            "visible": ends["low"] != ends["high"],
        },
        "marker": {**marker(6), "symbol": "diamond-wide"},
        "hoverinfo": "text",
        "hovertext": [f"{name}: {y:.4g}<br>{cells.hover(rows)}" for y, (_, rows) in zip(heights, found, strict=True)],
        "customdata": [cells.place(rows) for _, rows in found],
    }
    return [trace] if found else []


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _or(value: float | None, other: float | None) -> float:
    return (other or 0.0) if value is None else value


def _stack(traces: list[Trace], heaps: Sequence[Heap], title: str, note: str = "") -> Plot:
    names = [words for words, _ in heaps]
    few = len(names) <= 16  # more names than that lie on each other; pointing at a bar says which it is
    x = axis("", type="category", tickangle=0 if len(names) <= 8 else -45, tickfont={"size": 12}, showticklabels=few)
    y = axis(title, rangemode="tozero")
    means = " Bars are means over repeats." if any(len(rows) > 1 for _, rows in heaps) else ""
    drawn = layout(x, y, barmode="stack", bargap=0.4, legend={**ABOVE, "traceorder": "normal"})
    return Plot(traces, drawn, (note + means).strip(), 480)


@dataclass(frozen=True, kw_only=True)
class Stack(Figure):
    """by: the columns that name a bar; of cells that are alike in them it is the mean."""

    by: tuple[str, ...] | None = None


@FIGURES.register("steptime")
@dataclass(frozen=True, kw_only=True)
class StepTime(Stack):
    """A step's time by part, as measured or as `tdformer plan` predicts it, and the median of whole steps."""

    source: Literal["measured", "predicted"] = "measured"
    called = "Time of a step by part"
    first: ClassVar[tuple[str, ...]] = ("data", "compute")

    def draw(self, cells: Cells) -> Plot:
        parts = cells.parts("seconds." if self.source == "measured" else "predicted.seconds.", self.first)
        if not parts:
            raise Nothing(f"no cell has the parts of its step time, {self.source}, yet")
        traces, heaps = bars(cells, parts, self.by)
        note = "The mark is the median of whole steps with its quartiles; parts need not add up to it."
        return _stack([*traces, *whole(cells, heaps, "seconds_step", "whole step")], heaps, "time of a step (s)", note)

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls()] if cells.parts("seconds.") else []


@FIGURES.register("memory")
@dataclass(frozen=True, kw_only=True)
class Memory(Stack):
    """Memory of a process by part, as `tdformer plan` predicts it, and its measured peak."""

    called = "Memory by part"

    def draw(self, cells: Cells) -> Plot:
        parts = cells.parts("predicted.gib.")
        if not parts:
            raise Nothing("no cell has the parts of its memory, as tdformer plan predicts them")
        traces, heaps = bars(cells, parts, self.by)
        marks = whole(cells, heaps, "peak_gib", "measured peak")
        note = "Bars: predicted." + (
            " The mark is the measured peak." if marks else " No cell has a measured peak yet."
        )
        return _stack([*traces, *marks], heaps, "memory of a process (GiB)", note)

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls()] if cells.parts("predicted.gib.") else []


@FIGURES.register("goodput")
@dataclass(frozen=True, kw_only=True)
class Goodput(Stack):
    """Where GPU-hours went: into steps that count, or by cause into what does not."""

    unit: Literal["share", "hours"] = "share"
    called = "Goodput by cause"

    def draw(self, cells: Cells) -> Plot:
        if not cells.has("good"):
            raise Nothing("no cell says how much of its GPU-hours was good yet")
        hours = self.unit == "hours"

        def value(row: Row, part: str) -> float | None:
            share = number(row, part)
            return None if share is None else share * ((number(row, "gpu_hours") or 0.0) if hours else 100)

        causes = [part for part in cells.parts("bad.") if any(number(row, part) for row in cells.rows)]
        traces, heaps = bars(cells, ["good", *causes], self.by, value)
        return _stack(traces, heaps, "GPU-hours" if hours else "share of GPU-hours (%)")

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls()] if cells.has("good") else []
