"""How long a rank's own work takes: what no other rank is waited for in."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Seconds inside its `with` blocks: of the device where it has a clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._marks: list[Any] = []

    def __enter__(self) -> Stopwatch:
        self._mark()
        return self

    def __exit__(self, *_: object) -> None:
        self._mark()

    def read(self) -> float:
        """Seconds in all blocks since the last call."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        self._marks.clear()
        if not self.cuda:
            return sum(done - begun for begun, done in pairs)
        torch.cuda.current_stream().synchronize()
        return sum(begun.elapsed_time(done) for begun, done in pairs) / 1000

    def _mark(self) -> None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())
