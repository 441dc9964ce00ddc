"""Files that somebody has, seen as the samples that a model was trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedSample, DataError
from ..raw.listing import Skipped, listed
from ..raw.source import readable
from ..samples import Box, Kind, Pixels
from .pictures import MAX_PIXELS, crop, decode

T = TypeVar("T")


class FileSamples:
    """Files, and what a kind has in folders at any depth, by name, as samples of that kind; see `Samples`. Each is read
    when it is seen. They have no labels: all are 0.

    shape (C, H, W), mean and std: of the data that a model was trained on, H and W 0 where those had many sizes.
    paths: the files; skipped: what was passed over in the folders. Raises DataError for a folder that has none. Reading
    raises DamagedSample, naming the file, for one that cannot be read or has another shape.
    """

    digest = columns = ""

    def __init__(
        self,
        given: Sequence[Path],
        kind: Kind,
        shape: tuple[int, int, int],
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str],
    ) -> None:
        self.kind, self.shape = kind, shape
        self.mean, self.std, self.class_names = list(mean), list(std), list(class_names)
        self.class_titles: dict[str, str] = {}
        self.skipped = Skipped()
        self.paths = [path for place in given for path in self._files(place)]
        self._last: tuple[int, bytes] | None = None

    def _files(self, place: Path) -> list[Path]:
        if not place.is_dir():
            return [place]
        with readable(place):
            names, _ = listed(place, [""], self.kind.suffixes, self.skipped)
        if not len(names):
            raise DataError(f"{place} holds no {self.kind.name} ({self.skipped or 'no files'}); name another folder")
        return [place / os.fsdecode(name) for name in names.tolist()]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def folder(self) -> Path:
        return self.paths[0].parent if self.paths else Path()

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def labels(self) -> NDArray[np.int32]:
        return np.zeros(len(self), np.int32)

    @property
    def shard_of(self) -> NDArray[np.int32]:
        return np.zeros(len(self), np.int32)

    def following(self, batches: object, windows: object) -> AbstractContextManager[Callable[[int], None]]:
        """See `Samples`; there is nothing to fetch."""
        return nullcontext(lambda number: None)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of file i in pixels."""
        return self.decoded(i, lambda content: self.kind.measure(content, self.shape[0], MAX_PIXELS))[1:]

    def image(self, i: int) -> Pixels:
        """File i decoded, uint8 `[C, H, W]`."""
        pixels = self.decoded(i, lambda content: decode(content, self.shape[0]))
        if pixels.shape != self.shape:
            height, width = pixels.shape[1:]
            raise DamagedSample(
                f"{self.paths[i]} has {height} x {width} pixels, the model takes pictures as they are, of "
                f"{self.shape[1]} x {self.shape[2]}; resize it"
            )
        return pixels

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of file i at size x size, uint8 `[C, size, size]`."""
        return self.decoded(i, lambda content: crop(content, self.shape[0], box, size))

    def decoded(self, i: int, how: Callable[[bytes], T]) -> T:
        """What `how` makes of the bytes of file i, as a shard would have them."""
        path = self.paths[i]
        try:
            if self._last is None or self._last[0] != i:
                self._last = None
                self._last = i, self.kind.content(path)
            return how(self._last[1])
        except OSError as error:
            raise DamagedSample(f"{path} cannot be read ({error.strerror})") from error
        except DataError as error:
            said = str(error)
            raise DamagedSample(said if said.startswith(str(path)) else f"{path} {said}") from error
