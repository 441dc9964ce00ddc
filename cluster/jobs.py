"""The jobs of launched runs: what Slurm or this machine says of them, their output, and stopping them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError
from .monitor import duration
from .run import RunFolder

ALIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
"""Slurm's states of a job that may still run."""


@dataclass(frozen=True)
class Job:
    """A launched run's job, from its job.json."""

    folder: RunFolder
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def slurm(self) -> bool:
        return self.record["slurm"]

    def state(self) -> str:
        """Slurm's word for it, or of a local job RUNNING; ENDED where nobody knows it any more."""
        if self.slurm:
            return state(self.id)
        return "RUNNING" if self._runs() else "ENDED"

    def time_left(self) -> str:
        """Until Slurm's time limit."""
        return _squeue(self.id, "%L") if self.slurm else ""

    def stop(self) -> None:
        """Ask the ranks to save and end."""
        if self.slurm:
            done = subprocess.run(["scancel", self.id], capture_output=True, text=True)
            if done.returncode:
                raise RunError(f"scancel {self.id}: {done.stderr.strip()}")
        elif self._runs():
            os.kill(int(self.id), signal.SIGTERM)

    def log(self, rank: int) -> Path:
        return self.folder.path / "logs" / f"{self.id}_{rank}_log.out"

    def _runs(self) -> bool:
        try:
            return b"submitit" in Path(f"/proc/{self.id}/cmdline").read_bytes()
        except OSError:
            return False


def of(folder: RunFolder) -> Job | None:
    """The job that a run was last launched as; None where it was not."""
    try:
        return Job(folder, json.loads((folder.path / "job.json").read_text()))
    except FileNotFoundError:
        return None


def existing(run: Path) -> Job:
    """The job of a launched run. Raises RunError where there is none."""
    job = of(RunFolder(run))
    if job is None:
        raise RunError(f"{run} is not a launched run (it has no job.json); give a folder in runs_dir")
    return job


def table(runs_dir: Path) -> list[dict[str, str]]:
    """A row for each run folder: what its job and its status file say."""
    rows = []
    for config in sorted(runs_dir.glob("*/status.json")) + sorted(runs_dir.glob("*/job.json")):
        if config.name == "job.json" and (config.parent / "status.json").exists():
            continue
        rows.append(_row(RunFolder(config.parent)))
    return rows


def show(runs_dir: Path, watch: bool) -> None:
    """Print the table; with watch renew it until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not watch:
        console.print(_drawn(table(runs_dir)))
        return
    with Live(_drawn(table(runs_dir)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(5)
            live.update(_drawn(table(runs_dir)), refresh=True)


def _drawn(rows: list[dict[str, str]]) -> Any:
    from rich.table import Table

    if not rows:
        return "no runs"
    filled = [key for key in rows[0] if any(row[key] for row in rows)]
    drawn = Table(*filled, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        drawn.add_row(*(row[key] for key in filled))
    return drawn


def _row(folder: RunFolder) -> dict[str, str]:
    status, job = folder.status(), of(folder)
    state = job.state() if job else ""
    total, step, loss, rate = (status.get(k) for k in ("total", "step", "loss", "images_per_second"))
    left = status.get("seconds_left")
    said, saved = status.get("state", "queued"), folder.saved_step()
    age = time.time() - status.get("time", 0)
    alive = state in ALIVE or (job is None and age < 120)
    if said in ("starting", "running") and not alive:
        said = "lost"  # it ended without a word; started again it goes on
    return {
        "run": folder.path.name,
        "state": said,
        "job": f"{job.id} {state.lower()}" if job else "",
        "step": f"{step}/{total}" if total else "",
        "loss": "" if loss is None else f"{loss:.4g}",
        "images/s": "" if rate is None else f"{rate:.0f}",
        "restarts": str(status.get("restarts", 0)),
        "to do": duration(left) if left is not None and said == "running" else "",
        "job's limit": job.time_left() if job and state == "RUNNING" else "",
        "heard": f"{duration(age)} ago" if said in ("starting", "running", "lost") else "",
        "checkpoint": "" if saved is None else str(saved),
        "reason": status.get("reason", ""),
    }


def follow(job: Job, rank: int, until_end: bool) -> Iterator[str]:
    """A rank's output so far, and with until_end what comes until the job ends."""
    path, place = job.log(rank), 0
    while True:
        ended = not until_end or job.state() not in ALIVE
        if path.exists():
            with path.open(errors="replace") as file:
                file.seek(place)
                text = file.read()
                place = file.tell()
            if text:
                yield text
        if ended:
            return
        time.sleep(1)


def state(job: str) -> str:
    """Slurm's word for a job's state; ENDED where Slurm does not know it any more."""
    return _squeue(job, "%T") or "ENDED"


def _squeue(job: str, what: str) -> str:
    command = ["squeue", "-h", "--states=all", "-j", job, "-o", what]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except FileNotFoundError as e:
        raise RunError("squeue is not on the PATH; load Slurm's module") from e
