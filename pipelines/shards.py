"""Writing a data set as WebDataset tars with an index of offsets, sizes, labels and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from . import recordings
from .catalog import Dataset, Sample, Source
from .errors import DataError
from .index import AGAIN, COLUMNS, FORMAT, INDEX, TABLE, facts_digest, table_digest
from .pictures import decode
from .webdataset import TarDataset

ROW = np.dtype(list(COLUMNS.items()))  # 36 bytes a sample, where a list of its numbers takes some 300


def write(
    dataset: Dataset,
    split: str,
    root: Path,
    *,
    source: Path | None = None,
    samples_per_shard: int = 10_000,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `root/SPLIT/`: SPLIT-000000.tar and on, index.npz and index.json; the same bytes for the same samples.

    The folder is written under a hidden name and renamed when it is whole and synced. Interrupted, or stopped by a
    wrong sample, it keeps its whole shards there, and the next call takes those whose samples are unchanged. progress
    is called with the numbers of samples written and to write. Raises DataError when a sample is wrong, or when the
    disk is full; then nothing is left behind.
    """
    final = root / split
    hidden, replaced = root / f".{split}.tmp", root / f".{split}.old"
    try:
        opened = dataset.open(split, source)
        if not len(opened):
            raise DataError(f"{dataset.name} {split} has no samples at its source; check the source")
        hidden.mkdir(parents=True, exist_ok=True)
        parts = [range(i, min(i + samples_per_shard, len(opened))) for i in range(0, len(opened), samples_per_shard)]
        done, count = [], 0
        for part in _in_parallel(processes, _Job(dataset, opened, split, hidden), list(enumerate(parts))):
            done.append(part)
            count += part.facts["count"]
            if progress is not None:
                progress(count, len(opened))
        write_index(dataset, opened, split, hidden, done)
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            os.rename(final, replaced)
        os.rename(hidden, final)
        sync(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            shutil.rmtree(hidden, ignore_errors=True)
            raise DataError(f"no space left to write the shards in {final}; free some and run it again") from error
        raise DataError(f"cannot write the shards in {final} ({error.strerror}); choose another folder") from error
    return final


@dataclass(frozen=True)
class Shard:
    """A shard that is whole on the disk: its facts for index.json and its rows for index.npz."""

    facts: dict[str, Any]
    rows: NDArray[np.void]


@dataclass(frozen=True)
class _Job:
    """Writing one shard; called in any process."""

    dataset: Dataset
    opened: Source
    split: str
    folder: Path

    def __call__(self, asked: tuple[int, range]) -> Shard:
        number, ids = asked
        path = self.folder / f"{self.split}-{number:06d}.tar"
        note = path.with_suffix(".npz")
        marks = "\n".join(self.opened.mark(i) for i in ids)
        of = FORMAT, self.dataset.name, self.dataset.shape, self.opened.class_names
        mark = hashlib.sha256(f"{of}\n{marks}".encode()).hexdigest()
        before = _noted(note, mark)
        if before is not None and path.is_file() and _facts(path).items() <= before.facts.items():
            return before
        shard = self.write(path, number, ids)
        _save(note, mark=np.array(mark), facts=np.array(json.dumps(shard.facts)), rows=shard.rows)
        return shard

    def write(self, path: Path, number: int, ids: range) -> Shard:
        found: dict[str, tuple[int, ...]] = {}
        with path.open("wb") as file:
            # Fixed owner, mode and time: the same samples give the same bytes. An integer time, because tarfile
            # spends a kilobyte of extra header a member on a fraction.
            with TarWriter(file, user="0", group="0", mode=0o444, mtime=0, encoder=False) as tar:
                for i in ids:
                    sample = self.opened[i]
                    height, width = self.check(sample)
                    tar.write(
                        {
                            "__key__": sample.key,
                            sample.extension: sample.content,
                            "cls": str(sample.label).encode(),
                        }
                    )
                    size, crc = len(sample.content), zlib.crc32(sample.content)
                    found[f"{sample.key}.{sample.extension}"] = (size, sample.label, crc, height, width)
            file.flush()
            os.fsync(file.fileno())
        with tarfile.open(path) as tar:
            rows = np.array([(number, m.offset_data, *found[m.name]) for m in tar if m.name in found], ROW)
        return Shard({"name": path.name, **_facts(path), "count": len(rows)}, rows)

    def check(self, sample: Sample) -> tuple[int, int]:
        """Height and width. Raises DataError, naming the sample, when it does not decode or fit the data set."""
        classes, (channels, *size) = len(self.opened.class_names), self.dataset.shape
        place = f"{self.dataset.name} {self.split} sample {sample.name or sample.key}"
        if not 0 <= sample.label < classes:
            raise DataError(f"{place} has label {sample.label}, outside 0..{classes - 1}; fix the source")
        try:
            shape = _shape(sample, channels)
            if any(size) and list(shape[1:]) != size:
                raise DataError(f"decodes to {list(shape)} instead of {list(self.dataset.shape)}")
        except DataError as error:
            raise DataError(f"{place} {error}; fix the source") from error
        return shape[1], shape[2]


def _shape(sample: Sample, channels: int) -> tuple[int, ...]:
    """(C, H, W) of a sample. Raises DataError when it does not decode."""
    if sample.extension == "npz":
        events = recordings.decode(sample.content)
        return 2, events.height, events.width
    return decode(sample.content, channels).shape


def _in_parallel(processes: int, job: _Job, asked: list[tuple[int, range]]) -> Iterator[Shard]:
    if processes == 1:
        yield from map(job, asked)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (job,)) as pool:
        try:
            yield from pool.map(_work, asked)
        except BrokenProcessPool as error:
            raise DataError("a process that wrote shards died; free memory, or use fewer with --processes") from error
        finally:
            pool.shutdown(cancel_futures=True)


_job: _Job  # of a worker process; sent once, because it names every file


def _begin(job: _Job) -> None:
    global _job
    _job = job


def _work(asked: tuple[int, range]) -> Shard:
    return _job(asked)


def write_index(dataset: Dataset, opened: Source, split: str, folder: Path, done: list[Shard]) -> None:
    """index.npz and index.json of whole shards; nothing else is left in the folder."""
    columns = {key: np.concatenate([shard.rows[key] for shard in done]) for key in COLUMNS}
    _save(folder / TABLE, **columns)
    facts = {
        "format": FORMAT,
        "dataset": dataset.name,
        "split": split,
        "count": len(opened),
        "class_names": list(opened.class_names),
        "shape": list(dataset.shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "table": _facts(folder / TABLE),
        "shards": [shard.facts for shard in done],
        "columns": table_digest(columns),
    }
    if titles := getattr(opened, "class_titles", None):
        facts["class_titles"] = list(titles)
    facts["digest"] = facts_digest(facts)
    with (folder / INDEX).open("w") as file:
        file.write(json.dumps(facts, indent=1))
        file.flush()
        os.fsync(file.fileno())
    whole = {INDEX, TABLE, *(shard.facts["name"] for shard in done)}
    for path in folder.iterdir():  # notes for going on, and shards of an earlier try with other samples
        if path.name not in whole:
            path.unlink()
    sync(folder)


def _noted(note: Path, mark: str) -> Shard | None:
    """What was noted of a shard, if it was of the same samples."""
    try:
        with np.load(note, allow_pickle=False) as kept:
            return Shard(json.loads(str(kept["facts"])), kept["rows"]) if kept["mark"] == mark else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, **arrays: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        os.fsync(file.fileno())


def verify(folder: Path) -> int:
    """Read every shard and compare it with the index; returns the number of samples. Raises DataError."""
    data = TarDataset(folder)
    for shard in data.facts["shards"]:
        if _facts(folder / shard["name"])["sha256"] != shard["sha256"]:
            bad = next((i for i in data.ids_of(shard["name"]) if not data.intact(i)), None)
            where = "" if bad is None else f" (first at sample {bad})"
            raise DataError(f"{folder / shard['name']} is damaged{where}; {AGAIN}")
    return len(data)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def sync(place: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
