"""What cells have cost: the device-seconds of their starts, which each start counts while it runs, and the budget."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..run.folder import RunFolder
from ..run.kept import Speed
from ..run.records import write_atomic

BEAT = 2.0
"""Seconds between two counts of a start; a start that was cut off is taken to have lived as long after its last."""
LATE = 10
"""Beats without a count after which a start on another host is over."""
SAVING = 6.0
"""Seconds that a start which saves and ends may take, beside a few of its steps and the writing of a checkpoint."""
DISK = 100e6
"""Bytes/s at which a checkpoint is written at least."""


@dataclass(frozen=True)
class Use:
    """A start: its processes, where it is, the clock when it began and was last counted, and how often that is."""

    world: int
    host: str
    pid: int
    began: float
    last: float
    beat: float
    ended: bool

    @property
    def seconds(self) -> float:
        """Of a device, all processes together."""
        return self.world * (self.last - self.began + (0 if self.ended else self.beat))

    @property
    def live(self) -> bool:
        """Whether it may still run."""
        if self.ended:
            return False
        if self.host == socket.gethostname():
            return Path(f"/proc/{self.pid}").exists()
        return time.time() - self.last < LATE * self.beat

    def until(self, now: float) -> float:
        """`seconds`, as far as it may have come by now."""
        return max(self.seconds, self.world * (now - self.began)) if self.live else self.seconds


class Uses:
    """Those of cells, read anew at each call; of starts that have ended not again."""

    def __init__(self) -> None:
        self.known: dict[Path, Use] = {}

    def of(self, cell: Path) -> Iterator[Use]:
        for file in sorted(cell.glob("usage/[!.]*.json")):
            use = self.known.get(file)
            if use is None or not use.ended:
                with suppress(OSError, ValueError, TypeError, KeyError):
                    self.known[file] = Use(**json.loads(file.read_bytes()))
            if file in self.known:
                yield self.known[file]

    def of_study(self, study: Path) -> list[Use]:
        return [use for cell in sorted(study.glob("cells/[!.]*")) for use in self.of(cell)]


def device_seconds(cell: Path) -> float:
    """Of all starts of a cell, from their beginning to their end, times their processes."""
    return sum(use.seconds for use in Uses().of(cell))


def reached(study: Path, budget: float | None) -> bool:
    """Whether the cells of a study were stopped for a budget, in device-seconds, that was no less than this one."""
    try:
        told = json.loads((study / "reached.json").read_bytes())["budget"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return budget is not None and budget <= told


def budget(study: Path) -> float | None:
    """In device-seconds; None: no limit."""
    try:
        hours = json.loads((study / "budget.json").read_bytes())["budget_gpu_hours"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if hours is None else 3600 * float(hours)


class Meter:
    """Counts a start of a cell while a block runs, and ends it before the study's budget is spent: first it is asked to
    save, and where that takes too long the kernel ends it, which no busy machine delays."""

    def __init__(self, cell: Path, world: int) -> None:
        self.cell, self.study, self.world = cell, cell.parents[1], world
        self.began = time.time()
        self.file = cell / "usage" / f"{time.time_ns()}-{os.getpid()}.json"
        self.uses = Uses()
        self._end, self._asked = threading.Event(), False
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Meter:
        self.file.parent.mkdir(exist_ok=True)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self.note()
        self.check()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.note(ended=True)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def note(self, ended: bool = False) -> None:
        use = Use(self.world, socket.gethostname(), os.getpid(), self.began, time.time(), BEAT, ended)
        write_atomic(self.file, json.dumps(asdict(use)).encode())

    def _count(self) -> None:
        while not self._end.wait(BEAT):
            self.note()
            self.check()

    def check(self) -> None:
        """End this start where the budget would be spent else."""
        limit = budget(self.study)
        if limit is None:
            return
        uses, now = self.uses.of_study(self.study), time.time()
        spent = sum(use.until(now) for use in uses)
        running = max(self.world, sum(use.world for use in uses if use.live))
        left = (limit - spent) / running - BEAT  # seconds, if all that run go on
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))
        if not self._asked and left < self.saving():
            self._asked = True
            self._tell(limit, spent)
            os.kill(os.getpid(), signal.SIGTERM)

    def _tell(self, limit: float, spent: float) -> None:
        said = {"budget": limit, "spent": round(spent, 1)}
        write_atomic(self.study / "reached.json", json.dumps(said).encode())
        print(f"the study's budget of {limit / 3600:g} GPU-hours is reached: saving", flush=True)

    def saving(self) -> float:
        """Seconds that it takes at most, about, to end with a checkpoint."""
        folder = RunFolder(self.cell)
        rows, _ = folder.speed.whole("step", "seconds")
        start: Speed = {"step": 0}
        steps = [(b["step"] - a["step"], b["seconds"]) for a, b in zip([start, *rows], rows, strict=False)]
        slowest = max((seconds / count for count, seconds in steps if count > 0), default=0.0)
        saved = max(folder.checkpoints.glob("step-*"), default=None)
        size = sum(file.stat().st_size for file in saved.glob("*")) if saved else 0
        return BEAT + SAVING + 2 * slowest + size / DISK
