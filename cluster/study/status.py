"""What a study has done and what is left, for people and programs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TypedDict

from .. import slurm
from ..errors import RunError
from ..run.states import RunState
from ..run.words import duration
from . import schema
from .cost import Costs
from .folder import STATES, StudyFolder
from .usage import budget, reached


class Told(TypedDict):
    """Of a study; see `status`."""

    study: str
    revision: str
    cells: dict[str, int]
    steps: int
    total_steps: int
    gpu_hours: float
    budget_gpu_hours: float | None
    budget_reached: bool
    seconds_left: float | None
    reasons: dict[str, str | None]


def status(path: Path) -> Told:
    """Of the study in a folder: cells by state, steps done and in all, GPU-hours used and allowed, seconds left (None:
    not known before a cell is finished), and why cells have failed or were stopped. Raises RunError where there is no
    study."""
    folder = StudyFolder(path)
    if not folder.file.is_file():
        raise RunError(f"{path} is no study (it has no study.yaml); give the folder that tdformer scale run has made")
    options = schema.read(folder.file).options
    cells = {cell.path.name: cell for cell in folder.cells}
    jobs = {name: job.id for name, cell in cells.items() if (job := cell.job()) is not None}
    told = slurm.states([*jobs.values()])
    states = {n: cell.state(options.tries, told[jobs[n]] if n in jobs else None) for n, cell in cells.items()}
    costs = Costs([*cells.values()])
    left = costs.left(states)
    seconds = [None if cost is None else cost / cells[name].shape.world for name, cost in left.items()]
    reasons = {
        name: cells[name].run.status().get("reason") for name, state in states.items() if state == RunState.FAILED
    }
    ended = {name: cells[name].stopped() for name, state in states.items() if state == RunState.STOPPED}
    reasons |= {name: None if where is None else where["rule"] for name, where in ended.items()}
    known = [one for one in seconds if one is not None]
    limit = budget(folder.path)
    return {
        "study": folder.path.name,
        "revision": folder.revision(),
        "cells": {state: count for state in STATES if (count := Counter(states.values())[state])},
        "steps": sum(cell.done() for cell in cells.values()),
        "total_steps": sum(facts["steps"] for facts in costs.facts.values()),
        "gpu_hours": round(costs.spent() / 3600, 6),
        "budget_gpu_hours": options.budget_gpu_hours,
        "budget_reached": reached(folder.path, limit),
        "seconds_left": round(sum(known) / options.at_once, 1) if len(known) == len(seconds) else None,
        "reasons": reasons,
    }


def show(path: Path) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    told = status(path)
    left, limit = told["seconds_left"], told["budget_gpu_hours"]
    words = {
        "study": f"{told['study']} (code of revision {told['revision']})",
        "cells": ", ".join(f"{count} {state}" for state, count in told["cells"].items()),
        "steps": f"{told['steps']}/{told['total_steps']}",
        "GPU-hours": f"{told['gpu_hours']:.4f}" + ("" if limit is None else f" of {limit:g}"),
        "to do": "not known before a cell is finished" if left is None else duration(left),
    }
    words |= {"budget": "reached"} if told["budget_reached"] else {}
    drawn = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for key, value in [*words.items(), *told["reasons"].items()]:
        drawn.add_row(key, Text(str(value or "see its log")))
    Console().print(drawn)
