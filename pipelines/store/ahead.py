"""Fetching shards before they are read, in threads of the process whose loader reads them or has workers that do."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .cache import Cache, Item, let_go

AT_ONCE = 4
"""Files that a process fetches at once."""
_RETRY = 1.0
"""Seconds until a shard that another process fetches, or that had no room, is looked at again."""


class Ahead:
    """Fetches the shards of the window that is read and of the next.

    batches: the ids that are read, by number; shard_of: of each sample; windows: of each shard. hold: keep those of
    the window that is read in the cache. Not those of the next: processes that are a step apart then hold two windows
    together, so with room for two nobody waits for ever.
    """

    def __init__(
        self,
        cache: Cache,
        items: Sequence[Item],
        batches: Sequence[NDArray[np.int64]],
        shard_of: NDArray[np.int32],
        windows: NDArray[np.int64],
        hold: bool,
    ) -> None:
        self.cache, self.items, self.windows, self.hold = cache, items, windows, hold
        counts = [len(ids) for ids in batches]
        shards = shard_of[np.concatenate(batches)]
        number = np.repeat(np.arange(len(batches)), counts)
        self.last = dict(zip(shards.tolist(), number.tolist(), strict=True))
        """The last batch that needs a shard, in the order of the first that does."""
        starts = np.cumsum([0, *counts[:-1]])
        self.low = np.minimum.reduceat(windows[shards], starts)  # the windows that a batch lies in
        self.high = np.maximum.reduceat(windows[shards], starts)
        self.batch = -1
        self.held: dict[int, int] = {}
        self.present: set[int] = set()
        self.later: dict[int, float] = {}  # not before this time
        self.busy: set[int] = set()
        self.stopped = False
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []

    def at(self, number: int) -> None:
        """Batch `number` is read next; those before it have been."""
        with self.changed:
            turns = number < len(self.low) and (self.batch < 0 or self.low[number] != self.low[self.batch])
            self.batch = number
            if turns:  # what is there already must not leave before it is read
                self.present = {shard for shard in self._wanted() if self.cache.touch(self.items[shard])}
            self.changed.notify_all()
        for shard in [shard for shard in self.held if self.last[shard] < number]:
            let_go(self.held.pop(shard))
        if self.hold and number < len(self.high):
            for shard in self._until(self.high[number]):
                if shard not in self.held and (lock := self.cache.hold(self.items[shard])) is not None:
                    self.held[shard] = lock
        if not self.threads:
            self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(AT_ONCE)]
            for thread in self.threads:
                thread.start()

    def stop(self) -> None:
        """Fetch no more, keep nothing."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        while self.held:
            let_go(self.held.popitem()[1])

    def _until(self, window: int) -> list[int]:
        """Shards that this or a later batch needs, up to a window."""
        return [s for s, last in self.last.items() if last >= self.batch and self.windows[s] <= window]

    def _wanted(self) -> list[int]:
        return self._until(self.low[self.batch] + 1) if self.batch < len(self.low) else []

    def _next(self) -> int | None:
        now = time.monotonic()
        missing = (s for s in self._wanted() if s not in self.present | self.busy and self.later.get(s, 0) <= now)
        return next(missing, None)

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self.stopped and (shard := self._next()) is None:
                    self.changed.wait(_RETRY)
                if self.stopped:
                    return
                assert shard is not None
                self.busy.add(shard)
            there, pause = False, _RETRY
            try:
                there = self.cache.ahead(self.items[shard], self._go_on)
            except _Stopped:
                pass
            except DataError:  # whoever reads it tries again, and tells
                pause = self.items[shard].remote.patience.timeout
            with self.changed:
                self.busy.discard(shard)
                if there:
                    self.present.add(shard)
                else:
                    self.later[shard] = time.monotonic() + pause

    def _go_on(self) -> None:
        if self.stopped:
            raise _Stopped


class _Stopped(Exception):
    pass
