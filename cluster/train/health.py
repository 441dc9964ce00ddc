"""A run's health: what is wrong with a step, a rank or a layer, told once when it begins."""

from __future__ import annotations

import faulthandler
import statistics
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from tdformer.measure import Firing

from ..config import HealthConfig
from ..errors import thread_errors

RECENT = 50
"""Logged losses that a spike is measured against."""


class Watchdog:
    """Ends this process where no step, evaluation batch or part of a save is done in time, with the stacks of its
    threads on stderr. It is C code of its own thread: it barks in a collective, in a lock and in a loop alike."""

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes

    def alive(self) -> None:
        """Begin to count anew. Raises RunError where no thread can be started."""
        with thread_errors("the watchdog"):
            faulthandler.dump_traceback_later(self.seconds, exit=True, file=sys.__stderr__ or 2)

    def __enter__(self) -> Watchdog:
        self.alive()
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()


class Stopwatch:
    """Seconds of this rank's own work, which no other rank is waited for in: of the device where it has a clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks: list[Any] = []

    def mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def read(self) -> float:
        """Between every first and second mark since the last call."""
        pairs = list(zip(self.marks[::2], self.marks[1::2], strict=True))
        self.marks.clear()
        if not self.cuda:
            return sum(done - begun for begun, done in pairs)
        torch.cuda.current_stream().synchronize()
        return sum(begun.elapsed_time(done) for begun, done in pairs) / 1000


class Alarms:
    """Compares what is logged with the limits of `health`; each method returns a line for each trouble that is new."""

    def __init__(self, limits: HealthConfig, hosts: list[str], losses: Iterable[float | None] = ()) -> None:
        """hosts: of each rank; losses: logged before this start."""
        self.limits, self.hosts = limits, hosts
        self.losses = deque((x for x in losses if x is not None), maxlen=RECENT)
        self.on: set[str] = set()

    def loss(self, value: float | None) -> list[str]:
        """Of the steps since the last row."""
        if value is None:
            return []
        usual = statistics.median(self.losses) if len(self.losses) >= 5 else None
        self.losses.append(value)
        high = usual is not None and value > self.limits.spike * usual
        line = f"loss {value:.4g} is above {self.limits.spike:g} times the usual {usual}"
        return self._begun("spike", {"spike": line} if high else {})

    def ranks(self, seconds: list[float]) -> list[str]:
        """seconds: each rank's wait for data and first forward, since the last row."""
        usual = statistics.median(seconds)
        lines = {
            f"rank {rank}": f"rank {rank} on {self.hosts[rank]} takes {own / usual:.1f} times the median rank's time "
            "for its data and forward pass"
            for rank, own in enumerate(seconds)
            if usual > 0 and own > self.limits.straggler * usual
        }
        return self._begun("rank ", lines)

    def firing(self, units: Mapping[str, Firing]) -> list[str]:
        """What each unit of the model did in a logged step."""
        low, high = self.limits.firing_rate
        lines = {}
        for name, unit in units.items():
            if not low <= unit.rate <= high:
                lines[f"firing {name}"] = f"{name} has firing rate {unit.rate:.4f}, outside [{low:g}, {high:g}]"
            if unit.silent > self.limits.silent:
                lines[f"silent {name}"] = f"{unit.silent:.0%} of the channels of {name} never fired in a step"
        # A rate near its limit crosses it at every other step: each unit is told of once.
        new = sorted(lines.keys() - self.on)
        self.on |= lines.keys()
        return [lines[key] for key in new]

    def _begun(self, kind: str, lines: dict[str, str]) -> list[str]:
        """The lines of one kind whose trouble was not there before; those that are not among them are over."""
        now = {key for key in lines if key.startswith(kind)}
        new = sorted(now - self.on)
        self.on = {key for key in self.on if not key.startswith(kind)} | now
        return [lines[key] for key in new]
