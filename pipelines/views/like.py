"""Samples that are made of others: all that have their classes, mean and std, some of them, and as they were seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..remote import Remote
from ..samples import Box, Pixels, Samples


class Like:
    """Samples that have classes, mean and std of `clean`, and lie in one shard. own: what tells them from others of
    `clean`."""

    def __init__(
        self, clean: Samples, folder: Path | Remote, labels: NDArray[np.int32], shape: tuple[int, int, int], own: str
    ) -> None:
        self.kind = clean.kind
        self.folder, self.digest, self.columns = folder, f"{clean.digest} {own}", clean.columns
        self.class_names, self.class_titles, self.classes = clean.class_names, clean.class_titles, clean.classes
        self.mean, self.std, self.labels, self.shape = clean.mean, clean.std, labels, shape

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shard_of(self) -> NDArray[np.int32]:
        return np.zeros(len(self), np.int32)

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """See `Samples`; there is nothing to fetch."""
        return nullcontext(lambda number: None)


class Some(Like):
    """`count` of them, as far from each other as can be: where they are sorted by class, of each class equally many."""

    def __init__(self, of: Samples, count: int) -> None:
        self.of, self.ids = of, np.arange(count, dtype=np.int64) * len(of) // count
        super().__init__(of, of.folder, of.labels[self.ids], of.shape, f"{count} of them")

    @property
    def shard_of(self) -> NDArray[np.int32]:
        return self.of.shard_of[self.ids]

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """See `Samples`."""
        return self.of.following([self.ids[batch] for batch in batches], windows)

    def size(self, i: int) -> tuple[int, int]:
        return self.of.size(int(self.ids[i]))

    def image(self, i: int) -> Pixels:
        return self.of.image(int(self.ids[i]))

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        return self.of.crop(int(self.ids[i]), box, size)


class Held(Like):
    """Pictures in memory, uint8 `[n, C, H, W]`, as they were seen of `clean`."""

    def __init__(self, clean: Samples, images: Pixels) -> None:
        channels, height, width = images.shape[1:]
        super().__init__(clean, clean.folder, clean.labels, (channels, height, width), "as seen")
        self.images = images

    def size(self, i: int) -> tuple[int, int]:
        return self.shape[1:]

    def image(self, i: int) -> Pixels:
        picture: Pixels = self.images[i]
        return picture

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        raise NotImplementedError("pictures that were seen are not cropped again")
