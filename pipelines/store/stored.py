"""What an FFCV file holds of each picture: its pixels, or the file that it was."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..samples import Box, Pixels
from ..views.pictures import crop, decode, resized
from . import ffcv_adapter
from .ffcv_adapter import Field, Shape, Table
from .tars import TarDataset


class Kept(NamedTuple):
    """A sample in a file: its bytes, the `shape` (C, H, W) of the data set, height and width of the picture as it was,
    and those of stored pixels where every picture has its own."""

    content: NDArray[np.uint8]
    shape: Shape
    size: tuple[int, int]
    sides: NDArray[np.int64] | None


class Stored(ABC):
    """name: what `--stored` calls it. original: whether the bytes of a sample are those in the shards, so that it keeps
    its size, and the index has its checksum."""

    name: str
    original: bool

    @abstractmethod
    def sizes(self, data: TarDataset, max_side: int | None) -> NDArray[np.float64]:
        """Bytes of each sample, `[n]`."""

    @abstractmethod
    def content(self, data: TarDataset, i: int) -> tuple[NDArray[np.uint8], int]:
        """Sample i as ffcv writes it, and its label."""

    @abstractmethod
    def field(self, shape: Shape, max_side: int | None) -> Field:
        """What ffcv writes and reads it with."""

    @abstractmethod
    def table(self, path: Path, shape: Shape) -> Table:
        """See `ffcv_adapter`: raises whatever numpy says of a damaged file."""

    @abstractmethod
    def image(self, kept: Kept) -> Pixels:
        """uint8 `[C, H, W]`."""

    @abstractmethod
    def crop(self, kept: Kept, box: Box, size: int) -> Pixels:
        """A box of it, in pixels of the picture as it was, at size x size: uint8 `[C, size, size]`."""


class OfPixels(Stored):
    """No decoding, and more disk. Of a picture no more than the box is read."""

    name, original = "pixels", False

    def sizes(self, data: TarDataset, max_side: int | None) -> NDArray[np.float64]:
        height, width = (data.table[side].astype(float) for side in ("height", "width"))
        scale = np.minimum(1, (max_side or np.inf) / np.maximum(height, width))
        bytes_of: NDArray[np.float64] = data.shape[0] * height * width * scale**2
        return bytes_of

    def content(self, data: TarDataset, i: int) -> tuple[NDArray[np.uint8], int]:
        pixels = data.image(i)
        seen = pixels if all(data.shape) else pixels.transpose(1, 2, 0)
        return np.ascontiguousarray(seen), int(data.labels[i])

    def field(self, shape: Shape, max_side: int | None) -> Field:
        return ffcv_adapter.field_of_pixels(shape, max_side)

    def table(self, path: Path, shape: Shape) -> Table:
        return ffcv_adapter.table_of_pixels(path, shape)

    def image(self, kept: Kept) -> Pixels:
        return kept.content.reshape(kept.shape) if kept.sides is None else self._seen(kept).transpose(2, 0, 1)

    def crop(self, kept: Kept, box: Box, size: int) -> Pixels:
        seen = self._seen(kept)
        if seen.shape[:2] != kept.size:
            y, x = (there / original for there, original in zip(seen.shape, kept.size, strict=False))
            box = box[0] * y, box[1] * x, box[2] * y, box[3] * x
        return resized(seen, box, size)

    def _seen(self, kept: Kept) -> Pixels:
        """`[H, W, C]`."""
        if kept.sides is None:
            return kept.content.reshape(kept.shape).transpose(1, 2, 0)
        return kept.content.reshape(*kept.sides, 3)


class OfFiles(Stored):
    """The bytes of the files that they were, no larger than the shards."""

    name, original = "files", True

    def sizes(self, data: TarDataset, max_side: int | None) -> NDArray[np.float64]:
        return data.table["size"].astype(float)

    def content(self, data: TarDataset, i: int) -> tuple[NDArray[np.uint8], int]:
        content, label = data.read(i)
        return np.frombuffer(content, np.uint8), label

    def field(self, shape: Shape, max_side: int | None) -> Field:
        return ffcv_adapter.field_of_files()

    def table(self, path: Path, shape: Shape) -> Table:
        return ffcv_adapter.table_of_files(path)

    def image(self, kept: Kept) -> Pixels:
        return decode(kept.content.tobytes(), kept.shape[0], math.prod(kept.size))

    def crop(self, kept: Kept, box: Box, size: int) -> Pixels:
        return crop(kept.content.tobytes(), kept.shape[0], box, size, math.prod(kept.size))


PIXELS, FILES = OfPixels(), OfFiles()
STORED: dict[str, Stored] = {one.name: one for one in (PIXELS, FILES)}
