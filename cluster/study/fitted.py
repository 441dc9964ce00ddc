"""What a fit finds, for reports and JSON; and what a study's YAML says of each kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..config.words import either, nearest
from ..run.states import RunState
from . import table
from .table import Row

LEVEL = 0.9
"""Of all intervals."""


def interval(draws: Sequence[float]) -> tuple[float, float]:
    """The middle of them, LEVEL of all."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


class Estimate(NamedTuple):
    """low, high: of the interval; None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


class Point(NamedTuple):
    """A cell. x: one number for each axis, or a text where the fit compares."""

    cell: str
    x: float | str | list[float]
    measured: float
    fitted: float
    held_out: bool = False
    group: str | None = None


class Assumed(NamedTuple):
    """A number that goes into a result, the range that it is drawn from, and where it is from."""

    name: str
    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Fit:
    """x, y: what is on the axes of points and curve. note: why there are no numbers, or what to know of them. curve:
    rows to draw, each with x, y, low, high (and whatever else), `group` where there are groups."""

    name: str
    x: Sequence[str]
    y: str
    formula: str
    parameters: Mapping[str, Estimate]
    points: Sequence[Point]
    note: str | None = None
    curve: Sequence[Mapping[str, object]] = ()
    assumptions: Sequence[Assumed] = ()

    @property
    def residual(self) -> float | None:
        """Root mean square of (fitted - measured) / measured, of the cells that were fitted."""
        return _rms(point for point in self.points if not point.held_out)

    @property
    def held_out(self) -> float | None:
        """The same of those that were held out; None: none was."""
        return _rms(point for point in self.points if point.held_out)

    def as_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "x": list(self.x),
            "y": self.y,
            "formula": self.formula,
            "parameters": {name: one._asdict() for name, one in self.parameters.items()},
            "points": [point._asdict() for point in self.points],
            "residual": self.residual,
            "held_out": self.held_out,
            "note": self.note,
            "curve": [dict(row) for row in self.curve],
            "assumptions": [one._asdict() for one in self.assumptions],
        }


def _rms(points: Iterable[Point]) -> float | None:
    shares = [(point.fitted - point.measured) / point.measured for point in points if point.measured]
    return math.sqrt(sum(share**2 for share in shares) / len(shares)) if shares else None


class Refused(Exception):
    """Why a fit has no numbers, in a few words that become its note."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What every kind is told. y: a column of the table, or `1 - COLUMN`; x: columns; where: values that rows must
    have; group: a column, for each value of which there is a fit of its own."""

    name: str
    y: str
    x: tuple[str, ...]
    where: Mapping[str, object] = field(default_factory=dict)
    group: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError with the words after "report.fits[0] (NAME): " where a value cannot be."""

    def fit(self, rows: Sequence[Row]) -> Fit:
        """Of rows that `where` has chosen. Raises Refused where there can be no numbers."""
        raise NotImplementedError


def number(row: Row, column: str) -> float | None:
    """A value of a row as a number; `1 - COLUMN` is one less the column's. None: it has none, or no finite one."""
    turned = column.removeprefix("1 - ")
    value = table.number(row, turned)
    return 1.0 - value if value is not None and turned != column else value


def usable(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[Row], str | None]:
    """Finished rows that have a number in each column, and what to say of the others. Raises Refused where none has."""
    done = [row for row in rows if row.get("state") in (None, RunState.FINISHED)]
    if not done:
        raise Refused("no cell is finished" if rows else "no cell has these values")
    for column in columns:
        if not any(number(row, column) is not None for row in done):
            there = sorted({key for row in rows for key in row})
            bare = column.removeprefix("1 - ")
            near = f"; did you mean {nearest(bare, there)}?" if bare not in there and there else ""
            raise Refused(f"no finished cell has a number {bare}{near}")
    kept = [row for row in done if all(number(row, column) is not None for column in columns)]
    said = []
    if left := len(rows) - len(kept):
        said.append(f"{_cells(left)} not finished or without {either(list(columns))}: left out")
    if simulated := sum(row.get("simulated") is True for row in kept):
        said.append(f"{simulated} of {_cells(len(kept))} simulated, not run")
    return kept, "; ".join(said) or None


def _cells(count: int) -> str:
    return "1 cell is" if count == 1 else f"{count} cells are"


def enough(count: int, needed: int, what: str = "cells") -> None:
    """Raises Refused where there are too few."""
    if count < needed:
        raise Refused(f"not enough {what}: {count}, at least {needed} are needed")
