"""How long a rank's own work takes: what no other rank is waited for in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Stopwatch:
    """Seconds inside its `with` blocks: of the device where it has a clock."""

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
        """Seconds in all blocks since the last call."""
        if self.cuda:
            torch.cuda.current_stream().synchronize()
            seconds: float = sum(begun.elapsed_time(done) for begun, done in _pairs(self._events)) / 1000
        else:
            seconds = sum(done - begun for begun, done in _pairs(self._marks))
        self._events.clear()
        self._marks.clear()
        return seconds

    def _mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._marks.append(time.perf_counter())


def _pairs(marks: list[T]) -> Iterator[tuple[T, T]]:
    """The begin and the end of each block."""
    return zip(marks[::2], marks[1::2], strict=True)
