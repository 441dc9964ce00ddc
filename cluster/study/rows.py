"""The table of a study, read from its run folders; its columns are told in table.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import slurm
from ..errors import RunError
from ..run.goodput import account, steps
from ..run.kept import Speed, Start
from . import failures, schema
from .folder import CellFolder, Facts, StudyFolder
from .table import Row, number
from .usage import device_seconds


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
    last: Start = starts[-1] if starts else {}
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
    }
    spent, speed = account(cell.run), _speed(cell, facts)
    found |= facts.get("plan", {}) | spent.row() | speed | failures.columns(cell, spent, number(speed, "seconds_step"))
    found["gpu_hours"] = round(device_seconds(cell.path) / 3600, 6)  # as the budget counts them
    found |= {key: last.get(key) for key in ("parameters", "flop_image", "flop_image_done")}
    return found | _learned(cell, facts)


def _machine(start: Start, world: int) -> str | None:
    device = start.get("device")
    if device is None:
        return None
    name = str(start.get("cpu", "CPU")).partition(",")[0] if device == "CPU" else str(device)
    return f"{world} x {name}"


def _learned(cell: CellFolder, facts: Facts) -> Row:
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
        **({"energy_mj": energy} if (energy := _last(told, "energy_mj")) is not None else {}),
    }


def _last(told: Sequence[Mapping[str, object]], key: str) -> object:
    return next((one[key] for one in reversed(told) if one.get(key) is not None), None)


def _speed(cell: CellFolder, facts: Facts) -> Row:
    """What a clock tells of its steps."""
    found = steps(cell.run)
    batch, seconds = facts["images"] // max(1, facts["steps"]), found["seconds_step"]
    rates = cell.run.speed.whole("step")[0]
    last: Speed = rates[-1] if rates else {}
    known = {key: last.get(key) for key in ("tflops", "mfu", "hfu", "peak_gib")}
    return {**found, "images_second": batch / seconds if seconds else None, **known}
