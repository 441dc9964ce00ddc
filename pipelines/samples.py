"""What every reader offers: the samples of one split, by number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .boxes import Box
from .pictures import Pixels
from .recordings import Events

Array = NDArray[Any]


class Samples(Protocol):
    """shape (C, H, W), H and W 0 where every picture has its own; mean and std of each channel, scaled to 0..1;
    digest of the index, so two sets that differ differ in it. Reading raises DataError, naming the sample.

    Samples are pictures, read by `image` and `crop`, or, where C is 2 (OFF and ON), events, read as `Recorded`."""

    folder: Path
    digest: str
    class_names: list[str]
    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]

    def __len__(self) -> int: ...

    @property
    def classes(self) -> int: ...

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[n]`."""
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

    def see(self, data: Samples, i: int, epoch: int | None) -> Array:
        """Sample i in an epoch of training, or, None, in evaluation: `[..., C, H, W]`."""
        ...


def has_events(data: Samples) -> bool:
    """Whether the samples are events, and not pictures."""
    return data.shape[0] == 2
