"""Samples that are not on this machine: what is known of their data set, and none that could be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.kinds import KINDS
from pipelines.raw import catalog
from pipelines.remote import Remote
from pipelines.samples import Box
from pipelines.store.index import INDEX

from ..build.setup import Setup
from ..config import Config
from ..errors import RunError

SPLITS = ("train", "test")


class Absent:
    """One split of a data set (a `Samples`), by its facts: `count` samples in so many classes."""

    def __init__(self, config: Config, split: str, count: int, classes: int) -> None:
        known = catalog.get(config.data.dataset)
        self.kind, self.shape = KINDS.get(known.kind), known.shape
        self.mean, self.std = list(known.mean), list(known.std)
        self.class_names = [str(number) for number in range(classes)]
        self.class_titles: dict[str, str] = {}
        self.digest = self.columns = "absent"
        self.folder: Path | Remote = config.data.folder / split
        self.labels: NDArray[np.int32] = np.zeros(count, np.int32)
        self.shard_of: NDArray[np.int32] = np.zeros(count, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def following(self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None) -> NoReturn:
        raise self._missing()

    def size(self, i: int) -> NoReturn:
        raise self._missing()

    def image(self, i: int) -> NoReturn:
        raise self._missing()

    def crop(self, i: int, box: Box, size: int) -> NoReturn:
        raise self._missing()

    def _missing(self) -> DataError:
        return DataError(f"{self.folder} is not there to be read; tdformer shard writes it")


def setup_of(config: Config, world: int, images: int | None = None) -> Setup:
    """That of the shards where they lie on this machine, else of what is known of their data set. images: how many
    there will be to train on. Raises RunError where that is not enough."""
    folder = config.data.folder
    if isinstance(folder, Path) and any(folder.glob(f"[!.]*/{INDEX}")):
        if images is not None:
            raise RunError(f"--images is for data that are not there, and {folder} has shards; leave it out")
        return Setup.to_train(config, world, trusted=True)
    known = catalog.get(config.data.dataset)
    counts = known.counts if images is None else (images, *known.counts[1:])
    classes = known.classes or len(getattr(known, "class_names", ())) or config.model.num_classes
    for what, found, way in (("images", counts, "--images N"), ("classes", classes, "model.num_classes=N")):
        if not found:
            raise RunError(
                f"how many {what} {config.data.dataset} has is not known before its shards are there ({folder}); give "
                f"it with {way}"
            )
    counts = (round(config.data.share * counts[0]), *counts[1:], 0)[:2]
    train, test = (Absent(config, split, n, classes or 0) for split, n in zip(SPLITS, counts, strict=True))
    return Setup(config, world, train, test)
