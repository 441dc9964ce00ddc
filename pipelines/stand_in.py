"""Training goes on past samples that cannot be read: which samples stand in for them is a pure function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .draws import STAND_IN

TRIES = 20


@dataclass(frozen=True)
class StandIns:
    """shard_of: the shard of each sample, `[n]`; damaged: the ids that were found so far (`order.Cursor.damaged`)."""

    seed: int
    shard_of: NDArray[np.int32]
    damaged: frozenset[int] = frozenset()

    def of(self, epoch: int, i: int) -> Iterator[int]:
        """The ids to read for sample i, one after the other until one can be read: i itself, then random ones of its
        shard, which is at hand. Keyed by (seed, epoch, i), so the same on any rank; none that is known to be damaged.
        """
        if i not in self.damaged:
            yield i
        near = np.flatnonzero(self.shard_of == self.shard_of[i])
        for draw in STAND_IN.rng(self.seed, epoch, i).random(TRIES):
            other = int(near[int(draw * len(near))])
            if other != i and other not in self.damaged:
                yield other
