"""Data sets of pictures that are read whole."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..samples import Pixels
from .source import Dataset, Sample, Source

Load = Callable[[str, Path | None], tuple[Pixels, NDArray[np.int64]]]
"""Of a split and its source: all pictures `[n, C, H, W]` and labels `[n]`."""


@dataclass(frozen=True)
class ArrayDataset(Dataset):
    """A data set that is read whole, by `load`."""

    class_names: tuple[str, ...]
    load: Load

    def _open(self, split: str, source: Path | None) -> Source:
        images, labels = self.load(split, source)
        if len(images) != len(labels):
            raise DataError(f"{self.name} {split} has {len(images)} pictures but {len(labels)} labels; fix the source")
        return Arrays(self.class_names, images, labels)


@dataclass(frozen=True)
class Arrays:
    """Pictures `[n, C, H, W]` in memory, or in a file as it is read, as PNG."""

    class_names: tuple[str, ...]
    images: Pixels
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        return Sample(f"{i:08d}", encode_png(self.images[i]), "png", int(self.labels[i]))

    def mark(self, i: int) -> str:
        return f"{self.labels[i]} {zlib.crc32(self.images[i].tobytes())}"


def encode_png(image: Pixels) -> bytes:
    """uint8 `[C, H, W]`, C 1 or 3 -> PNG."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
