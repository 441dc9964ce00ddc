"""The global sample order and the cursor in it: pure functions.

Step s of an epoch takes the slice [s G, (s + 1) G) of `epoch_order`, G the global batch; ranks and gradient
accumulation take their shares of the slice. So any number of ranks sees the same global batches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from .draws import ORDER, SHARDS
from .errors import DataError

Ids = NDArray[np.int64]


def permutation(seed: int, epoch: int, n: int) -> Ids:
    """The order of one epoch: every id of 0..n-1 once."""
    return ORDER.order(n, seed, epoch)


def windows(seed: int, epoch: int, shards: int, window: int | None) -> Ids:
    """The window of the epoch that each of `shards` shards is read in, `[shards]`: they are permuted and taken `window`
    at a time; None: all at once."""
    place = np.argsort(SHARDS.order(shards, seed, epoch), kind="stable")
    return place // (window or max(shards, 1))


def epoch_order(cursor: Cursor, shard_of: NDArray[np.int32], window: int | None) -> Ids:
    """The order of the cursor's epoch: every id of 0..n-1 once. shard_of: the shard of each sample, `[n]`.

    None: `permutation`. Else window by window, the samples of one permuted among themselves; and each global batch
    sorted by shard, so that a rank's share lies in few of them.
    """
    seed, epoch, n = cursor.seed, cursor.epoch, len(shard_of)
    if window is None:
        return permutation(seed, epoch, n)
    read_in = windows(seed, epoch, shards_in(shard_of), window)
    ids = np.lexsort((ORDER.raw(n, seed, epoch), read_in[shard_of]))
    return ids[np.lexsort((shard_of[ids], np.arange(n) // cursor.global_batch))]


def shards_in(shard_of: NDArray[np.int32]) -> int:
    """How many shards there are, empty ones at the end aside."""
    return int(shard_of.max(initial=-1)) + 1


def steps_per_epoch(n: int, global_batch: int) -> int:
    """Optimizer steps of one epoch; the last n mod G samples of the permutation, other ones each epoch, are left out.

    Raises DataError when not even one global batch can be filled.
    """
    if n < global_batch:
        raise DataError(f"{n} training samples do not fill a global batch of {global_batch}; make the batch smaller")
    return n // global_batch


def global_batch(order: Ids, step: int, size: int) -> Ids:
    """The ids of step `step`, `[G]`."""
    return order[step * size : (step + 1) * size]


@dataclass(frozen=True)
class Share:
    """What one of `world` ranks takes of each global batch: `accumulation` micro-batches of `micro_batch` samples."""

    micro_batch: int
    accumulation: int = 1
    rank: int = 0
    world: int = 1

    def of(self, batch: Ids) -> list[tuple[int, Ids]]:
        """The micro-batches of a global batch, each with the position of its first sample.

        Those that all ranks compute at the same time lie side by side, rank after rank: so the images that BatchNorm
        normalises together can be the same ones on any number of ranks. Raises DataError where they do not multiply.
        """
        together = self.world * self.micro_batch
        if len(batch) != self.accumulation * together:
            raise DataError(
                f"a global batch of {len(batch)} is not {self.world} ranks x {self.accumulation} micro-batches of "
                f"{self.micro_batch}; choose sizes that multiply"
            )
        starts = range(self.rank * self.micro_batch, len(batch), together)
        return [(start, batch[start : start + self.micro_batch]) for start in starts]


def validation_share(n: int, rank: int, world: int) -> Ids:
    """The samples that a rank evaluates: each of 0..n-1 on exactly one rank, no tail dropped or counted twice. They
    lie side by side, so in few shards."""
    return np.arange(n * rank // world, n * (rank + 1) // world)


class Saved(TypedDict):
    """A `Cursor` as it is in a checkpoint; those of earlier versions know no damaged samples."""

    seed: int
    epoch: int
    step: int
    global_batch: int
    digest: str
    damaged: NotRequired[tuple[int, ...]]


@dataclass(frozen=True)
class Cursor:
    """Where training is in its data; nothing else is needed to go on exactly, on any number of ranks."""

    seed: int
    epoch: int
    step: int
    global_batch: int
    digest: str
    damaged: tuple[int, ...] = ()
    """The samples that could not be read so far, and are passed over; sorted."""

    def advance(self, n: int) -> Cursor:
        """The cursor after one more step over n samples."""
        if self.step + 1 < steps_per_epoch(n, self.global_batch):
            return replace(self, step=self.step + 1)
        return replace(self, epoch=self.epoch + 1, step=0)

    def check(self, digest: str, columns: str | None = None) -> Cursor:
        """The cursor, knowing the data by `digest`. columns: the digest of its table, which is all that cursors of
        earlier versions know. Raises DataError when the data is not what it counted in."""
        if self.digest not in (digest, columns):
            raise DataError(
                f"the training data has digest {digest[:12]}, the checkpoint was made with {self.digest[:12]}; "
                "point data.root at the same shards, or start a new run"
            )
        return replace(self, digest=digest)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Saved) -> Cursor:
        cursor = cls(**saved)
        return replace(cursor, damaged=tuple(cursor.damaged))  # JSON has a list
