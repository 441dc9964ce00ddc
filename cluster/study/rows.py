"""The table of a study, read from its run folders; its columns are told in table.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from .. import slurm
from ..errors import RunError
from . import schema
from .folder import CellFolder, StudyFolder
from .table import Row
from .usage import device_seconds

WARM_UP = 3
"""Steps at the beginning of each start whose time is left out."""


def rows(path: Path) -> list[Row]:
    """Those of the study in a folder, by the names of its cells. Raises RunError where there is no study."""
    folder = StudyFolder(path)
    if not folder.file.is_file():
        raise RunError(f"{path} is no study (it has no study.yaml); give the folder that tdformer scale run has made")
    tries = schema.read(folder.file).options.tries
    jobs = {cell.path.name: job.id for cell in folder.cells if (job := cell.job()) is not None}
    told = slurm.states([*jobs.values()])
    return [row(cell, tries, told.get(jobs.get(cell.path.name, ""))) for cell in folder.cells]


def row(cell: CellFolder, tries: int, job: slurm.State | None) -> Row:
    """Of one cell."""
    facts = cell.facts
    assert facts is not None
    starts = cell.run.starts.whole()[0]
    last = starts[-1] if starts else {}
    found: Row = {
        "cell": cell.path.name,
        "digest": facts["digest"],
        **{f"axis.{key}": value for key, value in facts["axes"].items()},
        "state": cell.state(tries, job),
        "simulated": False,
        "revision": facts["revision"],
        "machine": _machine(last, cell.shape.world),
        "date": str(last["time"])[:10] if "time" in last else None,
        "world": cell.shape.world,
        "gpu_hours": round(device_seconds(cell.path) / 3600, 6),
    }
    found |= {key: last.get(key) for key in ("parameters", "flop_image", "flop_image_done")}
    return found | _learned(cell, facts) | _timed(cell, facts)


def _machine(start: dict[str, Any], world: int) -> str | None:
    device = start.get("device")
    if device is None:
        return None
    name = str(start.get("cpu", "CPU")).partition(",")[0] if device == "CPU" else str(device)
    return f"{world} x {name}"


def _learned(cell: CellFolder, facts: dict[str, Any]) -> Row:
    """What a clock has no part in; of a cell that a rule has ended, up to where that was."""
    stopped = cell.stopped()
    until = stopped["step"] if stopped is not None else facts["steps"]
    told = [one for one in cell.run.metrics.whole("step")[0] if one["step"] <= until]
    steps = until if stopped is not None else max((int(one["step"]) for one in told), default=0)
    steps = facts["steps"] if cell.run.summary() is not None else steps
    return {
        "steps": steps,
        "images": steps * (facts["images"] // max(1, facts["steps"])),
        "loss": _last(told, "loss"),
        "accuracy": _last(told, "eval_accuracy"),
        "eval_loss": _last(told, "eval_loss"),
    }


def _last(told: Sequence[dict[str, Any]], key: str) -> Any:
    return next((one[key] for one in reversed(told) if one.get(key) is not None), None)


def _timed(cell: CellFolder, facts: dict[str, Any]) -> Row:
    """From the rows of speed.jsonl: each is of the steps since the one before."""
    batch = facts["images"] // max(1, facts["steps"])
    laps = cell.run.speed.whole("step", "images", "seconds", "data_wait_seconds")[0]
    warm, known = WARM_UP, []
    for before, lap in pairwise([{"step": 0}, *laps]):
        steps = lap["images"] / batch
        # A start after a kill does again what its checkpoint did not have, so it begins at a step that was there.
        warm = WARM_UP if lap["step"] <= before["step"] else warm
        if warm <= 0 and steps:
            known.append((lap["seconds"] / steps, lap["data_wait_seconds"] / steps))
        warm -= max(1, round(steps))
    if len(known) < 2:
        return {}
    low, middle, high = quantiles([seconds for seconds, _ in known], n=4, method="inclusive")
    return {
        "seconds_step": middle,
        "seconds_step_low": low,
        "seconds_step_high": high,
        "seconds.data": median(waited for _, waited in known),
        "images_second": batch / middle if middle else None,
    }
