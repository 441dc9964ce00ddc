"""What the study `feedback` found: for each backbone its accuracy without feedback and with each reading of the mixer,
and the differences over seeds, to no feedback and to the control. docs/reproduction.md shows it.

    tdformer scale run feedback
    tdformer scale report runs/feedback --out benchmarks/results/studies/feedback
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from cluster.run.states import RunState
from cluster.study.fitted import LEVEL, Estimate, Refused
from cluster.study.paired import Paired, holm
from cluster.study.table import Row, number, read

CELLS = Path(__file__).parent / "results" / "studies" / "feedback" / "cells.csv"
CASE, BACKBONE = "axis.case", "axis.model.name"
OFF, CONTROL, TEST = "off", "control", "p of t, "
NAMES = {OFF: "none", CONTROL: "none, two segments", "concat": "(a) concat", "processing": "(b) processing"}
HEAD = ["backbone", "M parameters", "feedback", "seeds", "accuracy, %", f"difference, points, {LEVEL:.0%} interval"]
HEAD += ["p of t", "p by Holm", "d_z"]


def rows() -> list[Row]:
    """Of the study's table; none where it is not there. Raises RunError for a file that is no table."""
    return read(CELLS) if CELLS.is_file() else []


def lines(cells: Sequence[Row], base: str = OFF) -> list[list[str]]:
    """Below HEAD: a line for each backbone and case, of the finished cells. base: the case that others are compared
    with; beside the control those without feedback in one segment are left out. p of Student's t-test of the
    differences of pairs of one seed, and by Holm over all of these; d_z: mean difference over its deviation."""
    cells = [row for row in cells if row.get("state") == RunState.FINISHED and number(row, "accuracy") is not None]
    cells = [row for row in cells if base == OFF or row[CASE] != OFF]
    found = {name: _compared([row for row in cells if row[BACKBONE] == name], base) for name in _all(cells, BACKBONE)}
    tests = {(name, key): one.value for name, its in found.items() for key, one in its.items() if key.startswith(TEST)}
    corrected = holm({name + key: p for (name, key), p in tests.items()})
    drawn = []
    for name, its in found.items():
        for case in dict.fromkeys([*NAMES, *_all(cells, CASE)]):
            own = [row for row in cells if (row[BACKBONE], row[CASE]) == (name, case)]
            if own:
                pair = f"{case} - {base}"
                drawn.append(
                    [name, *_measured(case, own), *_difference(its, pair, corrected.get(f"{name}{TEST}{pair}"))]
                )
    return drawn


def _all(cells: Iterable[Row], column: str) -> list[str]:
    return [*dict.fromkeys(str(row[column]) for row in cells)]


def _compared(its: Sequence[Row], base: str) -> Mapping[str, Estimate]:
    """What is told of each case of a backbone beside the base; nothing where there are too few pairs."""
    spec = Paired(name=str(its[0][BACKBONE]), x=(CASE,), y="accuracy", base=base, where={})
    try:
        return spec.fit(its).parameters
    except Refused:
        return {}


def _measured(case: str, own: Sequence[Row]) -> list[str]:
    values = [100 * (number(row, "accuracy") or 0.0) for row in own]
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    parameters = number(own[0], "parameters") or 0.0
    return [f"{parameters / 1e6:.3f}", NAMES.get(case, case), str(len(own)), f"{mean(values):.2f}{spread}"]


def _difference(its: Mapping[str, Estimate], pair: str, corrected: float | None) -> list[str]:
    """Empty where it is not told. corrected: p by Holm."""
    by, p, size = (its.get(f"{key}{pair}") for key in ("difference, ", TEST, "d_z, "))
    if by is None:
        return [""] * 4
    between = "" if by.low is None or by.high is None else f" ({100 * by.low:+.2f} to {100 * by.high:+.2f})"
    told = [f"{100 * by.value:+.2f}{between}"]
    if p is None or corrected is None or size is None:  # all differences are equal
        return told + [""] * 3
    return [*told, f"{p.value:.2g}", f"{corrected:.2g}", f"{size.value:+.2f}"]
