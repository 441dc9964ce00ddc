"""Writing the shards of a split a second time, as one FFCV file: a derived copy, whose checksums are kept beside it.

SPLIT.beton      pictures as pixels, which take more disk and no decoding, or as the files they were
SPLIT.beton.npz  the digest of the index that it was made from, its size, and a CRC-32 of each block of 8 MiB
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue, SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from .. import disk
from ..errors import DataError
from . import ours
from .ffcv_adapter import PAGE, Chunk, FileWriter, Told
from .forms import ffcv_file
from .tars import TarDataset

BLOCK = 1 << 23
STORED = ("pixels", "files")
Failed = tuple[bool, str, int | None]
"""Of what ended a process: whether it is a DataError, its line, and its number."""


def checks(beton: Path) -> Path:
    """Where the checksums of an FFCV file are."""
    return beton.with_name(f"{beton.name}.npz")


def check(folder: Path) -> None:
    """Raises DataError where a file that we did not write is in the place of a split's FFCV file."""
    copy = ffcv_file(folder)
    for place in (copy, checks(copy)):
        if place.exists() and not ours.has_copy(copy):
            raise DataError(f"{place} was not written by tdformer, or its checksums are damaged; move it away")


def write(
    folder: Path,
    *,
    stored: str = "pixels",
    max_side: int | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the shards in `folder` as FOLDER/SPLIT.beton, sample by sample in the order of the index.

    stored: `pixels`, or `files`: the original bytes, no larger than the shards. max_side: pixels are brought down to
    this longer side, averaged over areas. The file appears when it is whole and synced. Raises DataError for a
    damaged sample, a full disk, where ffcv is missing or something is in the way (see `check`); then nothing is left
    behind.
    """
    if stored not in STORED:
        raise DataError(f"an FFCV file cannot hold {stored!r}; choose one of {', '.join(STORED)}")
    if max_side is not None and stored == "files":
        raise DataError("original files keep their size; leave max-side out, or store pixels")
    data = TarDataset(folder)
    if not data.kind.pictures:
        raise DataError(f"{folder} holds {data.kind.name}, of which there is no FFCV copy; train from the shards")
    final = ffcv_file(folder)
    check(folder)
    for left in ours.unfinished(folder, folder.name):  # by a writer that was killed
        left.unlink()
    hidden = disk.temporary(final)
    need = _bytes(data, stored, max_side)
    free = shutil.disk_usage(folder).free
    if need > free:
        takes = f"to write {final}: it takes {need / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
        raise DataError(disk.no_space(takes, "free some, or store less with --max-side or --stored files"))
    try:
        _write(hidden, data, stored, max_side, processes, progress)
        disk.sync(hidden)
        facts = {"digest": np.array(data.digest), "bytes": np.array(hidden.stat().st_size), "stored": np.array(stored)}
        with checks(hidden).open("wb") as file:
            np.savez(file, allow_pickle=False, crc32=np.fromiter(crcs(hidden), np.uint32), **facts)
        disk.sync(checks(hidden))
        disk.publish(checks(hidden), checks(final))
        disk.publish(hidden, final)
    except OSError as error:
        if disk.is_full(error):
            raise DataError(disk.no_space(f"to write {final}")) from error
        raise DataError(f"cannot write {final} ({error.strerror}); choose another folder") from error
    finally:
        for left in (hidden, checks(hidden)):
            left.unlink(missing_ok=True)
    return final


def crcs(beton: Path) -> Iterator[int]:
    """CRC-32 of each block of 8 MiB."""
    with beton.open("rb") as file:
        while block := file.read(BLOCK):
            yield zlib.crc32(block)


def _bytes(data: TarDataset, stored: str, max_side: int | None) -> int:
    """What the file takes, about; never less but for a few pages."""
    return int(_sizes(data, stored, max_side).sum() * 1.02) + 2 * PAGE


def _sizes(data: TarDataset, stored: str, max_side: int | None) -> NDArray[np.float64]:
    """Bytes of each sample, `[n]`."""
    if stored == "files":
        return data.table["size"].astype(float)
    height, width = (data.table[side].astype(float) for side in ("height", "width"))
    longer = np.maximum(height, width)
    scale = np.minimum(1, (max_side or np.inf) / longer)
    bytes_of: NDArray[np.float64] = data.shape[0] * height * width * scale**2
    return bytes_of


class _Source:
    """A split as ffcv's writer takes it."""

    def __init__(self, data: TarDataset, stored: str) -> None:
        self.data, self.stored = data, stored

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]:
        if self.stored == "files":
            content, label = self.data.read(i)
            return np.frombuffer(content, np.uint8), label
        pixels = self.data.image(i)
        seen = pixels if all(self.data.shape) else pixels.transpose(1, 2, 0)
        return np.ascontiguousarray(seen), int(self.data.labels[i])


def _write(
    target: Path,
    data: TarDataset,
    stored: str,
    max_side: int | None,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Its processes are started and watched here."""
    writer = FileWriter(
        target,
        _Source(data, stored),
        stored=stored,
        shape=data.shape,
        max_side=max_side,
        largest=int(_sizes(data, stored, max_side).max()) + 1,
        processes=processes,
    )
    context = multiprocessing.get_context("fork")
    with writer.prepared():
        todo, told, failed = context.Queue(), context.Queue(), context.SimpleQueue()
        done = context.Value("Q", 0)
        for chunk in writer.chunks():
            todo.put(chunk)
        for _ in range(processes):
            todo.put(None)
        workers = [
            context.Process(target=_work, args=(failed, writer, todo, done, told), daemon=True)
            for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            allocations: list[Told] = []
            while len(allocations) < processes:
                if not failed.empty():
                    _raise(failed.get())
                if any(worker.exitcode not in (None, 0) for worker in workers):
                    raise DataError("a process that wrote the FFCV file died; free memory, or use fewer --processes")
                while not told.empty():
                    allocations.append(told.get())
                if progress is not None:
                    progress(done.value, len(data))
                time.sleep(0.05)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        writer.finish(allocations)


def _work(
    failed: SimpleQueue[Failed],
    writer: FileWriter,
    todo: Queue[Chunk | None],
    done: Synchronized[int],
    told: Queue[Told],
) -> None:
    try:
        writer.work(todo, done, told)
    except (DataError, OSError) as error:
        failed.put((type(error) is DataError, str(error), getattr(error, "errno", None)))


def _raise(told: Failed) -> NoReturn:
    of_data, line, number = told
    raise DataError(line) if of_data else OSError(number, line)
