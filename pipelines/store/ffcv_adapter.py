"""What is used of ffcv, most of it names that its documentation does not promise: as they are in version 1.0.2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

PAGE = 1 << 23
"""A sample lies in one page; the smallest page that a writer takes here."""
CHUNK = 100
"""Samples that a process of a writer takes at once."""
Chunk = list[tuple[int, int]]
"""Places in the file and samples."""
Told = list[object]
"""Where the pages of a process went, as ffcv tells it."""
Field = Any
"""What ffcv writes and reads a sample with."""
Column = NDArray[Any]
Shape = tuple[int, int, int]
"""(C, H, W) of a data set's pictures, H and W 0 where every one has its own."""


def installed() -> ModuleType:
    """The module `ffcv`. Raises DataError, saying how to install it, where it does not import."""
    try:
        import ffcv.reader
        import ffcv.writer
    except (ImportError, OSError) as error:
        raise DataError(
            f"ffcv does not import ({str(error).splitlines()[0]}); run make ffcv in the project's folder"
        ) from error
    module: ModuleType = ffcv
    return module


@dataclass(frozen=True)
class Table:
    """Of each sample of a file, `[n]`: its first byte, bytes and label; sides: height and width of stored pixels,
    `[n, 2]`, where every picture has its own."""

    first: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: NDArray[np.int64]
    sides: NDArray[np.int64] | None


def field_of_files() -> Field:
    from ffcv.fields import BytesField

    return BytesField()


def field_of_pixels(shape: Shape, max_side: int | None) -> Field:
    from ffcv.fields import NDArrayField, RGBImageField

    if all(shape):
        return NDArrayField(np.dtype(np.uint8), shape)
    return RGBImageField(write_mode="raw", max_resolution=max_side)


def table_of_files(path: Path) -> Table:
    """ffcv reads a damaged head without a check: this and `table_of_pixels` raise whatever numpy then says."""
    reader = installed().reader.Reader(str(path))
    pictures, labels = reader.metadata["f0"], reader.metadata["f1"]
    return _table(pictures["ptr"], pictures["size"], labels)


def table_of_pixels(path: Path, shape: Shape) -> Table:
    reader = installed().reader.Reader(str(path))
    pictures, labels = reader.metadata["f0"], reader.metadata["f1"]
    if all(shape):
        return _table(pictures, np.full(len(labels), int(reader.handlers["image"].element_size)), labels)
    sides = np.stack([pictures["height"], pictures["width"]], 1).astype(np.int64)
    return _table(pictures["data_ptr"], 3 * sides.prod(1), labels, sides)


def _table(first: Column, size: Column, labels: Column, sides: NDArray[np.int64] | None = None) -> Table:
    return Table(first.astype(np.int64), size.astype(np.int64), labels.astype(np.int64), sides)


class Pictures(Protocol):
    """What is written, sample by sample: pixels or the bytes of a file, and the label."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]: ...


class FileWriter:
    """ffcv's writer of a file, without its own way to run, which waits for ever for a process that died. The caller
    forks processes that call `work`, and watches them."""

    def __init__(
        self,
        target: Path,
        pictures: Pictures,
        *,
        field: Field,
        largest: int,
        processes: int,
    ) -> None:
        """field: of a picture; largest: bytes of the largest sample."""
        from ffcv.fields import IntField
        from ffcv.writer import DatasetWriter

        self.target, self.pictures = target, pictures
        self.page = max(PAGE, 1 << (largest - 1).bit_length())
        self._writer = DatasetWriter(str(target), {"image": field, "label": IntField()}, self.page, processes)
        self._writer.num_samples = len(pictures)
        self._allocator: Any = None

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The head of the file is written, and what its processes share is there. They are forked inside."""
        from ffcv.memory_allocator import MemoryAllocator

        self._writer.prepare()
        try:
            self._allocator = MemoryAllocator(str(self.target), self._writer.data_region_start, self.page)
            yield
        finally:
            self._writer.metadata_sm.close()
            self._writer.metadata_sm.unlink()

    def chunks(self) -> Iterator[Chunk]:
        """What is put into the queue of `work`, and None for each process after it: places in the file and samples."""
        for i in range(0, len(self.pictures), CHUNK):
            yield [(k, k) for k in range(i, min(i + CHUNK, len(self.pictures)))]

    def work(self, todo: Queue[Chunk | None], done: Synchronized[int], told: Queue[Told]) -> None:
        """Write what `todo` gives until it gives None; count samples in `done`; tell in `told` where pages went."""
        from ffcv.writer import worker_job_indexed_dataset

        writer = self._writer
        shared = writer.metadata_sm, writer.metadata_type, writer.fields, self._allocator
        worker_job_indexed_dataset(todo, *shared, done, told, self.pictures)

    def finish(self, told: list[Told]) -> None:
        """Write the table. told: what each process told."""
        self._writer.finalize([row for rows in told for row in rows])
