"""The jobs of launched runs: what Slurm or this machine says of them, their output, and stopping them."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from .. import config as configs
from .. import slurm
from ..errors import RunError
from ..run.folder import RunFolder
from ..run.goodput import account
from ..run.kept import Launched, Said
from ..run.lock import SILENT
from ..run.records import record
from ..run.states import UNDER_WAY, RunState
from ..run.words import duration
from ..slurm import State

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """A launched run's job, from its job.json. It belongs to the folder that it was launched in; to a copy of that it
    has ended."""

    folder: RunFolder
    record: Launched

    @property
    def id(self) -> str:
        return self.record["id"]

    @property
    def slurm(self) -> bool:
        return self.record["slurm"]

    @property
    def own(self) -> bool:
        return self.folder.made(self.record)

    @property
    def place(self) -> Path:
        """Where the run was when it became this job."""
        return Path(self.record["folder"] or "")

    @property
    def moved(self) -> bool:
        return self.place != self.folder.path.resolve()

    def look(self) -> State:
        """What Slurm says of it, or of a local job RUNNING; ENDED where nobody knows it any more, UNKNOWN where Slurm
        does not answer."""
        if not self.own:
            return State()
        return slurm.state(self.id) if self.slurm else self.look_here()

    def look_here(self) -> State:
        """The same of a local job."""
        return State("RUNNING" if self._runs() else slurm.ENDED)

    def state(self) -> str:
        return self.look().word

    def stop(self) -> bool:
        """Ask the ranks to save and end; False: they have ended. Raises RunError where it cannot be done from here."""
        if not self.own:
            raise RunError(
                f"{self.folder.path} is a copy of {self.place}, whose job {self.id} is; "
                f"tdformer resume {self.folder.path} launches one of its own"
            )
        if (now := self.look()).unknown:
            raise RunError(
                f"job {self.id} of {self.folder.path} was not asked to stop: {now.reason}; again when it does"
            )
        if not now.alive:
            return False
        if self.slurm:
            slurm.cancel(self.id)
        elif self._elsewhere:
            raise RunError(f"job {self.id} of {self.folder.path} is of {self.record['host']}; stop it there")
        else:
            os.kill(int(self.id), signal.SIGTERM)
        return True

    def log(self, rank: int) -> Path:
        return self.folder.path / "logs" / f"{self.id}_{rank}_log.out"

    @property
    def _elsewhere(self) -> bool:
        return self.record.get("host") not in (None, socket.gethostname())

    def _runs(self) -> bool:
        if self._elsewhere:
            return time.time() - self.folder.status().get("time", 0) < SILENT
        try:
            words = Path(f"/proc/{self.id}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return any(Path(os.fsdecode(word)).resolve() == self.place / "logs" for word in words)


def of(folder: RunFolder) -> Job | None:
    """The job that a run was last launched as; None where it was not. Raises RunError where job.json is damaged."""
    file, remedy = folder.job_file, "delete it, and launch the run again"
    if (found := record(file, remedy, Launched)) is None:
        return None
    if (
        not re.fullmatch("[0-9]+(_[0-9]+)?", found["id"])
        or min(found["nodes"], found["processes"], found["gpus"] + 1) < 1
    ):
        raise RunError(f"{file} describes no job; {remedy}")
    if found.get("folder") is None:  # written before copies were told from their originals
        found["folder"] = str(configs.stored(folder.launch_file).run_path)
    return Job(folder, found)


def existing(run: Path) -> Job:
    """The job of a launched run. Raises RunError where there is none."""
    job = of(RunFolder(run))
    if job is None:
        raise RunError(f"{run} is not a launched run (it has no job.json); give a folder in runs_dir")
    return job


class Row(TypedDict):
    """Of a run; None where there is nothing to say.

    tflops: of one device; goodput: as `Goodput.row`, where it was asked for; seconds_left: of the run,
    job_seconds_left: to its job's limit; checkpoint: its step; reason: text, maybe empty."""

    run: str
    state: str
    job: str | None
    job_state: str | None
    step: int | None
    total_steps: int | None
    loss: float | None
    images_per_second: float | None
    tflops: float | None
    mfu: float | None
    hfu: float | None
    goodput: dict[str, float | None] | None
    restarts: int
    seconds_left: float | None
    job_seconds_left: float | None
    seconds_since_heard: float | None
    checkpoint: int | None
    reason: str


def table(runs: Path, goodput: bool = False) -> list[Row]:
    """A row for each run folder in `runs`, or for the run that it is: what its job and its status file say. What is
    wrong with one of them is the reason in its own row. goodput: also what its clock says, which is longer to read."""
    folders = [runs] if _is_run(runs) else sorted(p for p in runs.iterdir() if _holds_run(p))
    found = [(folder, *_tried(partial(of, folder), None)) for folder in map(RunFolder, folders)]
    told = slurm.states([job.id for _, job, _ in found if job is not None and job.slurm and job.own])
    rows = [_row(folder, job, told, wrong) for folder, job, wrong in found]
    if goodput:
        for row, (folder, _, _) in zip(rows, found, strict=True):
            row["goodput"], unread = _tried(partial(_goodput, folder), None)
            row["reason"] = "; ".join(filter(None, [row["reason"], *unread]))
    return rows


def _goodput(folder: RunFolder) -> dict[str, float | None]:
    return account(folder).row()


def _is_run(folder: Path) -> bool:
    return _holds_run(folder, "config.yaml")


def _holds_run(folder: Path, *more: str) -> bool:
    try:
        return not {"status.json", "job.json", *more}.isdisjoint(os.listdir(folder))
    except PermissionError:  # it may be one
        return True
    except OSError:
        return False


def show(runs_dir: Path, watch: bool) -> None:
    """Print the table, and of one run its goodput; with watch renew the table until Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if not watch:
        console.print(_drawn(table(runs_dir)))
        if _is_run(runs_dir):
            said, unread = _tried(lambda: str(account(RunFolder(runs_dir))), "")
            console.print("goodput: " + "; ".join([*filter(None, [said]), *unread]), markup=False, soft_wrap=True)
        return
    with Live(_drawn(table(runs_dir)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(5)
            live.update(_drawn(table(runs_dir)), refresh=True)


def _drawn(rows: list[Row]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "no runs"
    lines = [_words(row) for row in rows]
    filled = [key for key in lines[0] if any(line[key] for line in lines)]
    drawn = Table(*filled, box=None, padding=(0, 2, 0, 0))
    for row in lines:
        drawn.add_row(*(Text(_printable(row[key])) for key in filled))
    return drawn


def _words(row: Row) -> dict[str, str]:
    """The columns of the table for people."""

    def said(value: T | None, words: Callable[[T], str] = str) -> str:
        return "" if value is None else words(value)

    return {
        "run": row["run"],
        "state": row["state"],
        "job": said(row["job"], lambda job: f"{job} {row['job_state']}"),
        "step": said(row["total_steps"], lambda total: f"{row['step']}/{total}"),
        "loss": said(row["loss"], "{:.4g}".format),
        "images/s": said(row["images_per_second"], "{:.0f}".format),
        "MFU": said(row["mfu"], "{:.1%}".format),
        "restarts": said(row["restarts"]),
        "to do": said(row["seconds_left"], duration),
        "job's limit": said(row["job_seconds_left"], duration),
        "heard": said(row["seconds_since_heard"], lambda age: f"{duration(age)} ago"),
        "checkpoint": said(row["checkpoint"]),
        "reason": row["reason"],
    }


def _printable(text: str) -> str:
    """Without what a terminal would act on, and what is not UTF-8 in a name."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _tried(read: Callable[[], T], otherwise: T) -> tuple[T, list[str]]:
    """What `read` gives, and what is wrong with it."""
    try:
        return read(), []
    except RunError as error:
        return otherwise, [" ".join(str(error).split())]


def _row(folder: RunFolder, job: Job | None, told: dict[str, State], wrong: list[str]) -> Row:
    """told: what Slurm says of its jobs; wrong: with job.json."""
    (status, unread), (saved, lost) = _tried(folder.said, Said()), _tried(folder.saved_step, None)
    wrong = [*unread, *wrong]
    now = State()
    if job is not None and job.own:
        now = told[job.id] if job.slurm else job.look_here()
    total, step, loss, left = status.get("total"), status.get("step"), status.get("loss"), status.get("seconds_left")
    said = status.get("state", RunState.DAMAGED if wrong else RunState.QUEUED)
    wrong += lost
    age = time.time() - status.get("time", 0)
    alive = now.alive or now.unknown or (job is None and age < SILENT)
    own = folder.made(status) if status else job is None or job.own
    if said in (*UNDER_WAY, RunState.QUEUED) and not own:  # it is so of the run that this is a copy of
        said = RunState.QUEUED if now.alive else RunState.COPIED
    if said in UNDER_WAY and now.waits:
        said = RunState.QUEUED  # its start ended without a word, and another one comes
    if said == RunState.QUEUED and job is not None and job.own and not alive:
        said = RunState.CANCELLED if now.word == "CANCELLED" else RunState.LOST  # before it had begun
        wrong.append(f"tdformer resume {folder.path}")
    if said in UNDER_WAY and not alive:
        said = RunState.LOST
    if now.held and said in (RunState.QUEUED, RunState.SAVED):
        said = RunState.HELD
    if job and job.moved and now.alive:
        wrong.append(f"moved from {job.place}, where its job cannot write any more: stop it, then resume")
    given = job if job and job.own else None
    restarts = status.get("restarts") or ""
    return {
        "run": folder.path.resolve().name,
        "state": said,
        "job": given.id if given else None,
        "job_state": now.word.lower() if given else None,
        "step": step if total else None,
        "total_steps": total or None,
        "loss": loss,
        "images_per_second": status.get("images_per_second"),
        "tflops": status.get("tflops"),
        "mfu": status.get("mfu"),
        "hfu": status.get("hfu"),
        "goodput": None,
        "restarts": int(restarts) if restarts.isdecimal() else 0,
        "seconds_left": left if said == RunState.RUNNING else None,
        "job_seconds_left": now.seconds_left if now.word == "RUNNING" else None,
        "seconds_since_heard": round(age, 1) if said in (*UNDER_WAY, RunState.LOST) and status else None,
        "checkpoint": saved,
        "reason": "; ".join(filter(None, [status.get("reason"), now.why(job.id) if job else "", *wrong])),
    }


def follow(job: Job, rank: int, until_end: bool) -> Iterator[str]:
    """A rank's output so far, and with until_end what comes until the job ends, or, where Slurm does not answer, until
    the run says that it has."""
    path, place, told = job.log(rank), 0, False
    while True:
        now = job.look() if until_end else State()
        ended = not now.alive
        if now.unknown:
            ended = job.folder.status().get("state") in (RunState.FINISHED, RunState.FAILED)
            if not told:
                print(f"warning: {now.reason}; going on", file=sys.stderr, flush=True)
        told = now.unknown
        if path.is_file():
            with path.open(errors="replace") as file:
                file.seek(place)
                text = file.read()
                place = file.tell()
            if text:
                yield text
        if ended:
            return
        time.sleep(1)
