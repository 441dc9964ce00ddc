"""A data set where its raw files are, and all that are known by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..draws import PICTURES
from ..errors import DataError
from ..registry import Registry


@dataclass(frozen=True)
class Sample:
    """One picture as its file's bytes, or encoded Events; extension: png, jpg or npz; name: where it comes from."""

    key: str
    content: bytes
    extension: str
    label: int
    name: str = ""


class Source(Protocol):
    """One split where its raw files are: samples by number, in a fixed order. It may also have class_titles, the
    names of the classes in words, and skipped, what lies there and is not read."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...

    def mark(self, i: int) -> str:
        """Changes when sample i does; cheaper than reading it."""
        ...


@dataclass(frozen=True)
class Dataset(ABC):
    """shape (C, H, W), H and W 0 where every picture has its own; mean and std of each channel, scaled to 0..1. Events
    have C 2, OFF and ON, the sensor's H and W, and as counts mean 0 and std 1. counts: samples of each of splits, and
    classes: their number, where everybody's copy has the same; what is planned before it is there goes by them.
    instead: the data set that a recipe is prepared with where the raw files raise NotHere."""

    name: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: tuple[str, ...] = field(default=("train", "test"), kw_only=True)
    kind: str = field(default="pictures", kw_only=True)
    counts: tuple[int, ...] = field(default=(), kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    instead: str | None = field(default=None, kw_only=True)

    def held_back(self, share: float) -> Dataset:
        """This one, with so much of the samples that are trained on held back to test on. Raises DataError."""
        raise DataError(f"--val-share is of a folder that is not split, and {self.name} has a test set; leave it out")

    @abstractmethod
    def _open(self, split: str, source: Path | None) -> Source: ...

    def open(self, split: str, source: Path | None = None) -> Source:
        """A split at `source`; None is the usual place. Raises DataError for a split or files that are not there."""
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; choose one of {', '.join(self.splits)}")
        with readable(source):
            return self._open(split, source)


DATASETS: Registry[Dataset] = Registry("data set")
"""Of ours and of those who register one: `catalog.get` finds ours among them."""


def mixed(n: int) -> NDArray[np.int64]:
    """A fixed order of n samples: neighbours in a folder or archive are of one class, and readers that read a shard
    from its beginning want them mixed."""
    return PICTURES.order(n, 0)


def mark_of(path: Path, label: int) -> str:
    """Changes when the file at `path` does, without reading it."""
    try:
        facts = path.stat()
    except OSError as error:  # whoever reads it says so
        return f"{path} {label} {error.errno}"
    return f"{path} {label} {facts.st_size} {facts.st_mtime_ns}"


@contextmanager
def readable(place: Path | None) -> Iterator[None]:
    """Turn what reading files of a user raises into a DataError. place: what is read, where the error has no name."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or place} cannot be read ({error.strerror}); fix the source") from error
