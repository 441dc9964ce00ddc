"""Batches on their way to a device. To a GPU they go one step ahead, by a stream of its own, while it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .loader import Batch


class Lane(Protocol):
    """What takes the micro-batches of a step to where they are computed with."""

    def send(self, batches: list[Batch]) -> list[Batch]:
        """Those that will be there, of which nothing is to be read before they are taken."""
        ...

    def take(self, batches: list[Batch]) -> None:
        """From here on they may be computed with."""
        ...


class Stream:
    """Copies from pinned memory to a GPU, by a stream that does nothing else. Nothing in it waits but a host that is
    more than one step ahead of the GPU, whose batches would pile up."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._stream = device, torch.cuda.Stream(device)
        self._copied, self._begun = torch.cuda.Event(), torch.cuda.Event()  # of the last step; at first of none
        self._pinned: list[Batch] = []  # what is being copied

    def send(self, batches: list[Batch]) -> list[Batch]:
        self._copied.synchronize()  # long done; what it copied from is let go below
        self._pinned = [_each(batch, Tensor.pin_memory) for batch in batches]
        with torch.cuda.stream(self._stream):
            there = [_each(batch, lambda x: x.to(self.device, non_blocking=True)) for batch in self._pinned]
        self._copied = self._stream.record_event(torch.cuda.Event(blocking=True))
        return there

    def take(self, batches: list[Batch]) -> None:
        computing = torch.cuda.current_stream(self.device)
        self._begun.synchronize()  # of the step before: the one before that is done
        computing.wait_event(self._copied)
        for batch in batches:  # or their memory would be copied into while they are read
            _each(batch, lambda x: _used(x, computing))
        self._begun = computing.record_event(torch.cuda.Event(blocking=True))  # who waits leaves its core to a worker


def _used(x: Tensor, by: torch.cuda.Stream) -> Tensor:
    x.record_stream(by)
    return x


def _each(batch: Batch, what: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with `what` of each tensor that a device computes with."""
    mixing, drawn = (None if one is None else what(one) for one in (batch.mixing, batch.drawn))
    return replace(batch, images=what(batch.images), labels=what(batch.labels), mixing=mixing, drawn=drawn)


@lru_cache
def lane(device: torch.device) -> Lane | None:
    """To a GPU one for all: memory that it was sent to is used again by its stream alone. None: a CPU has them."""
    return Stream(device) if device.type == "cuda" else None


class Delivery:
    """The micro-batches of each step in turn, and the seconds that they were waited for.

    With a lane there are those of two steps at most: the one that is computed, and the next, from when `send_next` is
    called. ready: whether the next are read. An error in reading them, and their end, is that of their own step.
    """

    def __init__(
        self, source: Iterator[list[Batch]], lane: Lane | None, ready: Callable[[], bool] = lambda: True
    ) -> None:
        self._source, self._lane, self._ready = source, lane, ready
        self._sent: list[Batch] | Exception | None = None

    def __iter__(self) -> Delivery:
        return self

    def __next__(self) -> tuple[list[Batch], float]:
        begun = time.perf_counter()
        found, self._sent = self._sent or self._next(), None
        if isinstance(found, Exception):
            raise found
        waited = time.perf_counter() - begun
        if self._lane is not None:
            self._lane.take(found)
        return found, waited

    def send_next(self) -> None:
        """Called while the device computes. Without a lane, or where it would wait for them, nothing happens yet."""
        if self._lane is not None and self._sent is None and self._ready():
            self._sent = self._next()

    def _next(self) -> list[Batch] | Exception:
        """An error is a value here, the end of all another."""
        try:
            batches = next(self._source)
            return batches if self._lane is None else self._lane.send(batches)
        except Exception as error:
            return error
