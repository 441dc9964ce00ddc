"""What every reader offers: the samples of one split, by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .events import Events
from .remote import Remote

Array = NDArray[Any]
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""top, left, height, width in pixels of the picture: int where the box is cut out before it is resized, float where it
has parts of a pixel and what lies around it is seen by the filter."""


class Samples(Protocol):
    """shape (C, H, W), H and W 0 where every picture has its own; mean and std of each channel, scaled to 0..1;
    digest of the index, so two sets that differ differ in it, and columns of its table alone. Reading raises DataError,
    naming the sample.

    Samples are pictures, read by `image` and `crop`, or, where C is 2 (OFF and ON), events, read as `Recorded`."""

    digest: str
    columns: str
    class_names: list[str]
    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]

    def __len__(self) -> int: ...

    @property
    def folder(self) -> Path | Remote:
        """Where they lie, for messages."""
        ...

    @property
    def classes(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[n]`."""
        ...

    @property
    def shard_of(self) -> NDArray[np.int32]:
        """The shard that each sample lies in, `[n]`."""
        ...

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Entered before `batches` of ids are read, by this process or its forks. Gives a function to call with the
        number of the batch that is read next: a reader that must fetch its shards does so ahead of it.

        windows: the window of each shard, `[shards]`, where all ranks go through them together; None: each rank goes
        through its shards one by one."""
        ...

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of sample i in pixels."""
        ...

    def image(self, i: int) -> Pixels:
        """Sample i, uint8 `[C, H, W]`."""
        ...

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of sample i at size x size, uint8 `[C, size, size]`."""
        ...


@runtime_checkable
class Recorded(Protocol):
    """A reader of events."""

    def events(self, i: int) -> Events:
        """Sample i. Raises DataError, naming it."""
        ...


class Seen(Protocol):
    """How samples are brought to the one shape that a batch has."""

    @property
    def grid(self) -> tuple[int, int]:
        """H and W of what is seen."""
        ...

    def bytes(self, channels: int) -> int:
        """Of one sample of so many channels, as it is seen."""
        ...

    def see(self, data: Samples, i: int, epoch: int | None) -> Array:
        """Sample i in an epoch of training, or, None, in evaluation: `[..., C, H, W]`."""
        ...


def has_events(data: Samples) -> bool:
    """Whether the samples are events, and not pictures."""
    return data.shape[0] == 2
