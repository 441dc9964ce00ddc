"""What a run tells: rows of JSON, its status, and lines for whoever watches."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from rich.console import Console

from ..config import Config
from ..errors import RunError, user_errors
from ..signals import Leave
from ..slurm.job import this_job
from .console import Display, peak_memory
from .figures import FIGURES
from .folder import RunFolder
from .records import R, Rows, write_atomic
from .speed import Lap, Pace
from .states import RunState
from .words import duration, worded

ORDER = ("step", "epoch", "loss", "lr", "grad_norm", "accuracy", "firing_rate", "silent")
SHOWN = ("loss", "accuracy", "lr", "loss_scale", "firing_rate", "dead")


class Monitor:
    """Rank 0 writes and shows; on the other ranks each call does nothing. A context manager that closes it.

    What enters metrics.jsonl is given by the caller and must be a function of the steps alone; what is timed is shown,
    and goes to speed.jsonl. So a run that was killed and went on has the metrics of one that never was.
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
        where there is no terminal, and at least between drawings."""
        self.run, self.config, self.total_steps, self.active = run, config, total_steps, rank == 0
        self.line_seconds = line_seconds
        if not self.active:
            return
        self.display = Display(total_steps, start, console, line_seconds)
        self._start = self._step = start
        self._pace = Pace()
        self._measured: list[str] = []
        self._timed: list[str] = []
        self._facts: dict[str, object] = {}
        self._drawn, self._drew = -1, time.monotonic()
        self._told, self._warned = 0.0, len(sound(run.health, self.say))
        self.tell(RunState.RUNNING, start)

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if self.active and isinstance(error, user_errors()):
            with suppress(RunError):  # a full disk: the first error is the one to tell
                self.tell(RunState.FAILED, self._step, reason=" ".join(str(error).split()))
        self.close()

    def row(self, row: Mapping[str, object]) -> None:
        """Write a row of metrics.jsonl; what is known of a step is shown from now on."""
        if not self.active:
            return
        row = ordered(row)
        self.run.check_lock()
        self.run.metrics.append(row)
        self._facts = {"loss": row.get("loss")}
        self._measured = [worded(k, row[k]) for k in SHOWN if row.get(k) is not None]

    def timed(self, lap: Lap, rates: Mapping[str, float] | None = None) -> None:
        """Show from now on how fast the steps since the last row were. rates: as `Utilisation.row` gives them."""
        if self.active:
            rates = dict(rates or {})
            self._facts |= {"images_per_second": lap.row()["images_per_second"], **rates}
            waiting = f"data wait {lap.waited / (lap.seconds or 1):.0%}"
            shares = [worded(key, rates[key]) for key in ("mfu", "hfu") if key in rates]
            reached = shares or [worded("tflops", rates["tflops"])] if rates else []
            self._timed = [worded("images_per_second", lap.rate), waiting, *reached]

    def step(self, step: int, epoch: int, lap: Lap) -> None:
        """An optimizer step is done, the `step`-th of the run, in `epoch` (from 0), in the time of `lap`."""
        if not self.active:
            return
        self._step = step
        self._pace.add(lap.seconds)
        seconds = self._pace.left(self.total_steps - step)
        if time.monotonic() - self._told >= self.line_seconds / 2:
            self.tell(RunState.RUNNING, step, seconds_left=None if seconds is None else round(seconds, 4))
        timed = self._timed or [worded("images_per_second", lap.rate)]
        left = "" if seconds is None else f"{duration(seconds)} left"
        of = f"epoch {epoch + 1}/{self.config.train.epochs}"
        peak, gpu = peak_memory()
        self.display.show(step, of, self._measured, [*timed, f"{peak:.2f} GiB{' of GPU memory' * gpu}"], left)

    def evaluation(self, metrics: Mapping[str, object]) -> None:
        """An evaluation is done: `step`, `epoch`, and `eval_accuracy`, `eval_loss`, ... . Draws the curves now and
        then: that takes as long as an epoch of few pictures."""
        if not self.active:
            return
        row = ordered(metrics)
        self.run.check_lock()
        self.run.metrics.append(row)
        values = {k.removeprefix("eval_"): v for k, v in row.items() if k.startswith("eval_")}
        self.say(f"step {row['step']}: test " + ", ".join(worded(k, v) for k, v in values.items()))
        if time.monotonic() - self._drew >= self.line_seconds:
            self.draw()

    def finish(self, summary: Mapping[str, object]) -> None:
        """The run is done: the last curves, summary.json, and the final line."""
        if not self.active:
            return
        self.draw()
        self.run.check_lock()
        self.run.finish(summary)
        step = summary["step"]
        assert isinstance(step, int)
        self.tell(RunState.FINISHED, step)
        self.close()
        self.say(f"finished {self.run.path}: {', '.join(worded(k, v) for k, v in summary.items())}")

    def leave(self, leave: Leave) -> None:
        """The run was stopped by a signal, and saved."""
        if self.active:
            self.tell(RunState.SAVED, leave.step, reason=f"stopped by {leave.kind.name}")
            self.say(str(leave))

    def warn(self, line: str, **facts: object) -> None:
        """Something is wrong: a line for people, a row of health.jsonl, and a count in the status."""
        if self.active:
            self._warned += 1
            self.run.health.append({**facts, "warning": line})
            self.say(f"warning: {line}")

    def tell(self, state: RunState, step: int, **more: object) -> None:
        """status.json, which is also the heartbeat: while it runs it is at most some seconds old, or a step."""
        job = {"job": this_job(), "restarts": os.environ.get("SLURM_RESTART_COUNT")}
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
        if self.active:
            self.display.close()

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        if self.active:
            self.display.say(line)

    def draw(self) -> None:
        """curves.png where `log.curves` asks for it, and what `log.figures` names, from metrics.jsonl and speed.jsonl;
        not again where no row came since: the last evaluation is most often the last row."""
        if self.active:
            names = dict.fromkeys(["curves"] * self.config.log.curves + self.config.log.figures)
            if not names:
                return
            speed, _ = self.run.speed.whole("step", "images_per_second")
            rows, epoch = [*self.run.metrics.read(), *speed], self.total_steps / self.config.train.epochs
            if len(rows) == self._drawn:
                return
            for name in names:
                write_atomic(self.run.figure(name), FIGURES.get(name)(rows, self.config.name, epoch))
            self._drawn, self._drew = len(rows), time.monotonic()


def sound(rows: Rows[R], say: Callable[[str], None], *numbers: str) -> list[R]:
    """Rows that no result depends on: those that are damaged are counted in a line to `say`, and left out."""
    whole, damaged = rows.whole(*numbers)
    if damaged:
        say(f"warning: {rows.path} has {len(damaged)} damaged lines, which are left out")
    return whole


def ordered(row: Mapping[str, object]) -> dict[str, object]:
    """The same keys in the same order, whoever built the row."""
    return {k: row[k] for k in ORDER if k in row} | {k: row[k] for k in sorted(row) if k not in ORDER}
