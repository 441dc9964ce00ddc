"""The studies of benchmarks/results/studies in one page, benchmarks/results/studies.md.

    tdformer scale run strong_scaling
    tdformer scale report runs/strong_scaling --out benchmarks/results/studies/strong_scaling
    python -m benchmarks.studies

A line is the cells that differ in nothing but repeats and seeds: the median of what they measured, and the least and
the most of it. The page of each study (`index.html`, 5 MB) is not kept: `tdformer scale report` makes it again from
cells.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cluster.run.states import RunState
from cluster.study.table import Row, read

from . import table

RESULTS = Path(__file__).parent / "results"
SAME = ("axis.repeat", "axis.seed")
"""Axes in which cells of a line differ."""
FACTS = ("date", "machine", "revision")
COLUMNS = {
    "eval_loss": "test loss",
    "accuracy": "accuracy",
    "seconds_step": "s a step",
    "images_second": "images/s",
    "peak_gib": "GiB resident",
    "predicted.peak_gib": "GiB planned",
    "gpu_hours": "process-hours",
}


def lines(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a study's table: its axes, `world`, how many cells, and the columns that it has."""
    axes = [key for key in dict.fromkeys(k for row in rows for k in row) if key.startswith("axis.") and key not in SAME]
    columns = [key for key in COLUMNS if any(row.get(key) is not None for row in rows)]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["state"] == RunState.FINISHED:
            groups.setdefault(tuple(str(row.get(axis)) for axis in axes), []).append(row)
    head = [axis.removeprefix("axis.") for axis in axes] + ["cells", *(COLUMNS[key] for key in columns)]
    found = [[*key, str(len(cells)), *(_spread(cells, column) for column in columns)] for key, cells in groups.items()]
    return head, found


def _spread(cells: Sequence[Row], column: str) -> str:
    values: list[Any] = [cell[column] for cell in cells if cell.get(column) is not None]
    if not values:
        return ""
    low, middle, high = (f"{value:.3g}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def page(folder: Path) -> str:
    """Of all studies in a folder."""
    found = ["# Studies\n\nWritten by `python -m benchmarks.studies`, from the tables beside it."]
    for file in sorted(folder.glob("*/cells.csv")):
        rows = read(file)
        facts = {key: ", ".join(sorted({str(row[key]) for row in rows if row.get(key)})) for key in FACTS}
        done = sum(row["state"] == RunState.FINISHED for row in rows)
        head, its = lines(rows)
        found += [
            f"## {file.parent.name}\n[cells.csv](studies/{file.parent.name}/cells.csv); {done} of {len(rows)} cells "
            f"finished; {facts['date']}; {facts['machine']}; code of {facts['revision']}.",
            table(head, its),
        ]
    return "\n\n".join(found) + "\n"


if __name__ == "__main__":
    (RESULTS / "studies.md").write_text(page(RESULTS / "studies"))
    print(RESULTS / "studies.md")
