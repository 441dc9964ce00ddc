"""clock.jsonl: what the time of each start went into.

A row sums up all since the process of the start began, so one that is damaged, or that a kill has prevented, loses no
more than the time since the row before it. `goodput` reads them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from ..slurm.job import this_job
from .kept import Beat
from .lock import started
from .records import Rows

PARTS = ("loading", "warm_up", "data", "train", "checkpoint", "evaluation")
"""Seconds in a row: before the first step; of the first WARM_UP steps; of those after them, the wait for data and the
rest; that training stood for saves; of evaluations. Beside them `step`, the last of the run, and `steps` of this start;
the last row of a start that ended by itself has its exit code instead."""
EVERY = 10.0
"""Seconds after which a step writes a row though it logs none."""


class Clock:
    """Of one start, the `start`-th line of starts.jsonl. began: `time.monotonic()` when it did; world: its ranks."""

    def __init__(self, rows: Rows[Beat], start: int, began: float, world: int) -> None:
        self.rows, self.start, self.began, self.world = rows, start, began, world

    @classmethod
    def begin(cls, rows: Rows[Beat], start: int, began: float, world: int, facts: Mapping[str, object]) -> Clock:
        """With its first row: when it began, and what tells a copy's starts, its job and its process."""
        clock = cls(rows, start, began, world)
        job = {"job": this_job(), "restarts": os.environ.get("SLURM_RESTART_COUNT")}
        clock.tell(monotonic=began, host=socket.gethostname(), pid=os.getpid(), **job, **facts)
        return clock

    @classmethod
    def of(cls, rows: Rows[Beat]) -> Clock | None:
        """That of the newest start, for another process of it; None: it has none."""
        begun = [row for row in rows.whole("start", "world", "monotonic")[0] if "host" in row]
        return cls(rows, begun[-1]["start"], begun[-1]["monotonic"], begun[-1]["world"]) if begun else None

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def tell(self, **facts: object) -> None:
        """A row."""
        elapsed = round(self.seconds(), 4)
        self.rows.append({"start": self.start, "time": time.time(), "seconds": elapsed, "world": self.world, **facts})


def process_began() -> float:
    """When this process did, as `time.monotonic()` told it then."""
    ticks = started(os.getpid())
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    age = 0.0 if ticks is None else now - int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, age)
