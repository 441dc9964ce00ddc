"""What every reader offers: the samples of one split, by number."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .boxes import Box
from .pictures import Pixels


class Samples(Protocol):
    """shape (C, H, W), H and W 0 where every picture has its own; mean and std of each channel, scaled to 0..1;
    digest of the index, so two sets that differ differ in it. Reading raises DataError, naming the sample."""

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
