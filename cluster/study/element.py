"""What runs a cell: `python -m cluster.study.element local CELL` on this machine, below the study's process;
`... rank ARRAY` in each task of a job array, and `... aftermath ARRAY EXIT_CODE` as the last line of its script."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from ..jobs.aftermath import main as aftermath
from ..jobs.launch import note
from ..jobs.rank import Job, attempted, launched
from ..run.clock import process_began
from ..slurm import this_job
from .failures import injected
from .folder import CellFolder
from .usage import Meter, budget, reached

PATIENCE = 60.0
"""Seconds for which a cell waits for the end of its start before, whose study was killed."""


def local(cell: CellFolder) -> int:
    """Train it here, with as many processes as its shape has."""
    from ..jobs.processes import die_with_parent, start  # imports torch

    die_with_parent()

    def train() -> int:
        with cell.run.lock(wait=PATIENCE):
            pass
        return start(launched(cell.run), cell.shape.world, process_began())

    with Meter(cell.path, cell.shape.world), injected(cell, process_began()):
        return attempted(cell.run, train)


def rank(cell: CellFolder) -> int:
    """Train it as one rank of a job."""
    first = os.environ.get("SLURM_PROCID") == "0"
    if _over(cell):
        return 0
    job = this_job()
    assert job is not None
    known = cell.job()
    if first and (known is None or known.id != job):  # who submitted it was killed before it could
        note(cell.run, job, cell.shape, queued=True)
    with Meter(cell.path, cell.shape.world) if first else nullcontext():
        return Job(cell.path).run()


def _over(cell: CellFolder) -> bool:
    """Whether nothing is to be done for it any more, or the budget is spent."""
    study = cell.path.parents[1]
    return cell.run.summary() is not None or cell.stopped() is not None or reached(study, budget(study))


def of_array(file: str) -> CellFolder:
    """The cell of this job, which is an element of the array that a file describes."""
    array, number = Path(file), int(os.environ["SLURM_ARRAY_TASK_ID"])
    name = json.loads(array.read_bytes())["cells"][number]
    return CellFolder(array.parents[1] / "cells" / name)


def main(kind: str, place: str, code: str = "") -> int:
    """Returns the exit code."""
    if kind == "local":
        return local(CellFolder(Path(place)))
    cell = of_array(place)
    if kind == "rank":
        return rank(cell)
    cell.tried(int(code))
    return int(code) if _over(cell) else aftermath(str(cell.path), code)


if __name__ == "__main__":
    ended = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # all is written: the interpreter's own end would only free memory
