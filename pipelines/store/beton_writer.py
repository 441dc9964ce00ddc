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
from .ffcv_adapter import PAGE, Chunk, FileWriter, Told, installed
from .forms import ffcv_file
from .stored import PIXELS, STORED, Stored
from .tars import TarDataset

BLOCK = 1 << 23
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
    stored: str = PIXELS.name,
    max_side: int | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the shards in `folder` as FOLDER/SPLIT.beton, sample by sample in the order of the index.

    stored: the name of one of STORED. max_side: pixels are brought down to this longer side, averaged over areas. The
    file appears when it is whole and synced. Raises DataError for a damaged sample, a full disk, where ffcv is missing
    or something is in the way (see `check`); then nothing is left behind.
    """
    if stored not in STORED:
        raise DataError(f"an FFCV file cannot hold {stored!r}; choose one of {', '.join(STORED)}")
    kept = STORED[stored]
    if max_side is not None and kept.original:
        raise DataError("original files keep their size; leave max-side out, or store pixels")
    data = TarDataset(folder)
    if not data.kind.pictures:
        raise DataError(f"{folder} holds {data.kind.name}, of which there is no FFCV copy; train from the shards")
    final = ffcv_file(folder)
    check(folder)
    for left in ours.unfinished(folder, folder.name):  # by a writer that was killed
        left.unlink()
    hidden = disk.temporary(final)
    need = int(kept.sizes(data, max_side).sum() * 1.02) + 2 * PAGE  # about; never less but for a few pages
    free = shutil.disk_usage(folder).free
    if need > free:
        takes = f"to write {final}: it takes {need / 2**30:.1f} GiB, and {free / 2**30:.1f} are free"
        raise DataError(disk.no_space(takes, "free some, or store less with --max-side or --stored files"))
    try:
        _write(hidden, data, kept, max_side, processes, progress)
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


class _Source:
    """A split as ffcv's writer takes it."""

    def __init__(self, data: TarDataset, stored: Stored) -> None:
        self.data, self.stored = data, stored

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]:
        return self.stored.content(self.data, i)


def _write(
    target: Path,
    data: TarDataset,
    stored: Stored,
    max_side: int | None,
    processes: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Its processes are started and watched here."""
    installed()
    writer = FileWriter(
        target,
        _Source(data, stored),
        field=stored.field(data.shape, max_side),
        largest=int(stored.sizes(data, max_side).max()) + 1,
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
