"""What a run tells: JSON lines, a progress bar or plain lines, curves, and wandb where asked."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from ..config import Config, flat
from ..errors import RunError, user_errors
from ..signals import Leave
from .folder import RunFolder, revision
from .records import Rows, write_atomic

ORDER = ("step", "epoch", "loss", "lr", "grad_norm", "accuracy", "firing_rate", "silent")


class Monitor:
    """Rank 0 writes and shows; on the other ranks each call does nothing. A context manager that closes it.

    What enters metrics.jsonl is given by the caller and must be a function of the steps alone; all that is timed
    goes to speed.jsonl. So a run that was killed and went on has the metrics of one that never was.
    """

    def __init__(
        self,
        run: RunFolder,
        config: Config,
        total_steps: int,
        rank: int = 0,
        start: int = 0,
        console: Console | None = None,
        line_seconds: float = 10.0,
    ) -> None:
        """total_steps: optimizer steps of the whole run; start: those done before; line_seconds: between lines,
        where there is no terminal."""
        self.run, self.config, self.total_steps, self.active = run, config, total_steps, rank == 0
        self.line_seconds = line_seconds
        self._shown = time.monotonic()
        self._lap = self._done = _Lap()
        self._words: list[str] = []
        if not self.active:
            return
        self.console = console or Console(highlight=False)
        speed = self._informative(run.speed, "step", "images", "seconds", "data_wait_seconds")
        self._before = _Lap.of(speed)
        self._wandb = _start_wandb(run, config, self.say) if config.log.wandb != "off" else None
        self._bar = _Bar(self.console, total_steps, start) if self.console.is_terminal else None
        self._step = start
        self._told, self._warned = 0.0, len(self._informative(run.health))
        self._start, self._facts = start, {}
        if self._wandb:
            self._send_again(speed)
        self.tell("running", start)

    _bar: _Bar | None = None
    _wandb: Any = None
    _facts: dict[str, Any]

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if self.active and isinstance(error, user_errors()):
            with suppress(RunError):  # a full disk: the first error is the one to tell
                self.tell("failed", self._step, reason=" ".join(str(error).split()))
        self.close()

    def step(
        self, metrics: Mapping[str, Any], images: int, seconds: float, waited: float, units: Mapping[str, float] = {}
    ) -> None:
        """One optimizer step is done: `step` (from 1), `epoch`; with a `loss` it becomes a row of metrics.jsonl.

        images: of the global batch; seconds: that they took, `waited` of them for data; units: firing rates by name,
        for wandb.
        """
        if not self.active:
            return
        self._lap += _Lap(images, seconds, waited)
        if "loss" in metrics:
            self._write(_ordered(metrics), units)
        self._step = int(metrics["step"])
        self._show(self._step)

    def evaluation(self, metrics: Mapping[str, Any]) -> None:
        """An evaluation is done: `step`, `epoch`, and `eval_accuracy`, `eval_loss`, ... . Draws the curves."""
        if not self.active:
            return
        row = _ordered(metrics)
        self.run.check_lock()
        self.run.metrics.append(row)
        self._send(row)
        values = {k.removeprefix("eval_"): v for k, v in row.items() if k.startswith("eval_")}
        self.say(f"step {row['step']}: test " + ", ".join(_words(k, v) for k, v in values.items()))
        self.draw()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run is done: the last curves, the final line, and summary.json, which also gets the speed of the
        run: train_seconds (of all its starts, without evaluations and checkpoints) and images_per_second."""
        if not self.active:
            return
        total = self._before + self._done + self._lap
        speed = {"train_seconds": _round(total.seconds), "images_per_second": _round(total.rate)}
        self.draw()
        self.run.check_lock()
        self.run.finish({**summary, **speed})
        self.tell("finished", int(summary["step"]))
        if self._wandb:
            self._wandb.summary.update({**summary, **speed})
        self.close()
        words = [_words(k, v) for k, v in {**summary, **speed}.items()]
        self.say(f"finished {self.run.path}: {', '.join(words)}")

    def leave(self, leave: Leave) -> None:
        """The run was stopped by a signal, and saved."""
        if self.active:
            self.tell("saved", leave.step, reason=f"stopped by {leave.kind.name}")
            self.say(str(leave))

    def warn(self, line: str, **facts: Any) -> None:
        """Something is wrong: a line for people, a row of health.jsonl, and a count in the status."""
        if self.active:
            self._warned += 1
            self.run.health.append({**facts, "warning": line})
            self.say(f"warning: {line}")

    def tell(self, state: str, step: int, **more: Any) -> None:
        """status.json, which is also the heartbeat: while it runs it is at most some seconds old, or a step."""
        job = {k: os.environ.get(v) for k, v in (("job", "SLURM_JOB_ID"), ("restarts", "SLURM_RESTART_COUNT"))}
        where = {"host": socket.gethostname(), "pid": os.getpid(), **{k: v for k, v in job.items() if v is not None}}
        facts = {
            "step": step,
            "total": self.total_steps,
            "started_at": self._start,
            **self._facts,
            "warnings": self._warned,
            **where,
            **more,
        }
        self.run.tell(state, **facts)
        self._told = time.monotonic()

    def close(self) -> None:
        """Stop showing; for every way out of the loop. May be called twice."""
        if self._bar:
            self._bar.stop()
            self._bar = None
        if self._wandb:
            self._wandb.finish()
            self._wandb = None
            self.run.wandb_has(self._step)

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        if self.active:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> None:
        """curves.png from metrics.jsonl."""
        if self.active:
            write_atomic(self.run.curves, _curves(self.run.metrics.read(), self.config.name))

    def _informative(self, rows: Rows, *numbers: str) -> list[dict[str, Any]]:
        """Rows that no result depends on: those that are damaged are counted, and left out."""
        whole, damaged = rows.whole(*numbers)
        if damaged:
            self.say(f"warning: {rows.path} has {len(damaged)} damaged lines, which are left out")
        return whole

    def _write(self, row: dict[str, Any], units: Mapping[str, float]) -> None:
        lap, self._lap = self._lap, _Lap()
        self._done += lap
        speed = {
            "images": lap.images,
            "seconds": _round(lap.seconds),
            "images_per_second": _round(lap.rate),
            "data_wait_seconds": _round(lap.waited),
        }
        self.run.check_lock()
        self.run.metrics.append(row)
        self.run.speed.append({"step": row["step"], **speed})
        self._send(row | speed | {f"firing/{name}": rate for name, rate in units.items()})
        self._facts = {"loss": row["loss"], "images_per_second": speed["images_per_second"]}
        self._words = [_words(k, row[k]) for k in ("loss", "accuracy", "firing_rate") if row.get(k) is not None]
        self._words += [f"{lap.rate:.0f} images/s", f"data wait {lap.waited / (lap.seconds or 1):.0%}"]

    def _show(self, step: int) -> None:
        rate = (self._done + self._lap).rate or 1.0
        seconds_left = (self.total_steps - step) * self.config.train.global_batch / rate
        left = duration(seconds_left)
        if time.monotonic() - self._told >= self.line_seconds / 2:
            self.tell("running", step, seconds_left=_round(seconds_left))
        if self._bar:
            self._bar.words = ", ".join(self._words)
            self._bar.update(self._bar.task_ids[0], completed=step, left=f"{left} left")
            return
        now = time.monotonic()
        if step == self.total_steps or now - self._shown >= self.line_seconds:
            self._shown = now
            words = self._words or [f"{rate:.0f} images/s"]
            self.say(f"step {step}/{self.total_steps}, {', '.join(words)}, {left} left")

    def _send(self, row: Mapping[str, Any]) -> None:
        if self._wandb:
            self._wandb.log(dict(row), step=row["step"])

    def _send_again(self, speed: list[dict[str, Any]]) -> None:
        """What a start that was killed may have taken with it: wandb writes its log in blocks, from another process."""
        has, speeds = self.run.wandb_step(), {row["step"]: row for row in speed}
        for row in self.run.metrics.read():
            if row["step"] > has:
                self._send(row | speeds.get(row["step"], {}))


@dataclass(frozen=True)
class _Lap:
    """Images, the seconds they took, and how many of these were spent waiting for data."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> _Lap:
        return sum((cls(r["images"], r["seconds"], r["data_wait_seconds"]) for r in rows), cls())

    def __add__(self, other: _Lap) -> _Lap:
        return _Lap(self.images + other.images, self.seconds + other.seconds, self.waited + other.waited)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0


def _ordered(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys in the same order, whoever built the row."""
    return {k: row[k] for k in ORDER if k in row} | {k: row[k] for k in sorted(row) if k not in ORDER}


class _Bar(Progress):
    """A bar, and what was measured in a line below it, so that 80 columns are enough."""

    words = ""

    def __init__(self, console: Console, total: int, done: int) -> None:
        left = TextColumn("{task.fields[left]}", markup=False)
        super().__init__(TextColumn("step"), MofNCompleteColumn(), BarColumn(30), left, console=console)
        self.add_task("train", total=total, completed=done, left="")
        self.start()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.words)


def _start_wandb(run: RunFolder, config: Config, say: Callable[[str], None]) -> Any:
    """One wandb run for all starts of ours; without a key it is kept in the run folder, to be sent later."""
    import wandb

    *entity, project = config.log.wandb_project.split("/")
    online = config.log.wandb == "online"
    if online and (why := _no_wandb()):
        say(f"{why}: logging offline; `tdformer sync {run.path}` sends it later")
        online = False
    try:
        started = wandb.init(
            entity=entity[0] if entity else None,
            project=project,
            name=config.name,
            id=run.wandb_id(),
            resume="allow" if online else None,
            dir=str(run.path),
            mode="online" if online else "offline",
            config=flat(config),
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        raise RunError(f"wandb does not start: {' '.join(str(error).split())}; log.wandb=off leaves it out") from error
    started.config.update(_facts(), allow_val_change=True)  # another one at each start
    # After a kill some steps are sent again; against our own step they lie over each other.
    started.define_metric("*", step_metric="step")
    return started


def _no_wandb() -> str | None:
    """Why nothing can be sent to wandb from here; None: it can."""
    import wandb

    try:
        return None if wandb.login(prompt=False) else "wandb has no key here"
    except wandb.Error as error:  # a key that it does not take, or no network
        return " ".join(str(error).split())


def sync(run: RunFolder) -> str:
    """Send what a run logged offline to wandb; returns a line that says so. Raises RunError where nothing is to be
    sent, or wandb refuses."""
    logged = sorted(run.path.glob(f"wandb/offline-run-*-{run.wandb_id()}"))
    if not logged:
        raise RunError(f"{run.path} has nothing logged offline by itself; log.wandb=offline does")
    if why := _no_wandb():
        raise RunError(f"{why}; `wandb login` first, on a machine with network")
    cut = 0
    for folder in logged:
        marker = folder / f"run-{run.wandb_id()}.wandb.synced"
        if marker.exists():
            continue
        # One by one: wandb sends nothing at all where one of several logs ends before its first record.
        command = [sys.executable, "-m", "wandb", "sync", "--id", run.wandb_id(), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        said = (done.stderr + done.stdout).strip()
        if re.search("incomplete record|next record: EOF", said):
            cut += 1
            if folder != logged[-1]:  # that may be running
                marker.touch()
        elif done.returncode or not marker.exists():  # where a log cannot be sent, its exit code is 0
            raise RunError(f"wandb refuses {folder}: {said.splitlines()[-1] if said else 'no reason given'}")
    told = f"; {cut} of them without an end (killed: the next start has the rest; or running)" if cut else ""
    return f"{run.path}: sent as run {run.wandb_id()}, {len(logged)} starts{told}"


def _facts() -> dict[str, Any]:
    """The code's revision, and where Slurm has put this start."""
    slurm = ("JOB_ID", "RESTART_COUNT", "JOB_PARTITION", "JOB_ACCOUNT", "JOB_NODELIST", "NNODES", "NTASKS")
    given = {key.lower(): os.environ.get(f"SLURM_{key}") for key in slurm}
    return {f"start.{key}": value for key, value in (revision() | given).items() if value is not None}


def _curves(rows: list[dict[str, Any]], title: str) -> bytes:
    """A PNG: loss, accuracy, learning rate and firing rate against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex=True).flatten()
    for axis, key in zip(axes, ("loss", "accuracy", "lr", "firing_rate"), strict=True):
        for name, style, label in ((key, "-", "training"), (f"eval_{key}", "o-", "test")):
            points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), style, markersize=4, label=label)
        axis.set(ylabel="learning rate" if key == "lr" else key.replace("_", " "))
        axis.grid(alpha=0.3)
        if len(axis.lines) > 1:
            axis.legend()
    for axis in axes[2:]:
        axis.set(xlabel="optimizer step")
    figure.suptitle(title)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _words(key: str, value: Any) -> str:
    name = key.replace("_", " ")
    if key.endswith("accuracy") and value is not None:
        return f"{name} {100 * value:.2f} %"
    if key.endswith("seconds"):
        return f"{name.removesuffix(' seconds')} {duration(value)}"
    if key == "images_per_second":
        return f"{value:.0f} images/s"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _round(x: float) -> float:
    return round(x, 4)
