"""How long a rank's own work takes: what no other rank is waited for in."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Seconds inside its `with` blocks: of the device where it has a clock, of which none is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._marks: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def __enter__(self) -> Stopwatch:
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._mark()

    def read(self) -> float:
        """Seconds in all blocks since the last call; those that a GPU has not done yet are told by a later one."""
        seconds = 0.0
        while self._events and self._events[1].query():
            begun, done, *self._events = self._events
            seconds += begun.elapsed_time(done) / 1000
        while self._marks:
            start, end, *self._marks = self._marks
            seconds += end - start
        return seconds

    def _mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._marks.append(time.perf_counter())
