"""Writing a data set as WebDataset tars with an index of offsets, sizes, labels and checksums."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from webdataset import TarWriter

from .. import disk
from ..errors import DataError
from ..kinds import KINDS, unnamed
from ..raw.source import Dataset, Sample, Source
from ..views.pictures import MAX_PIXELS
from . import ours
from .index import AGAIN, COLUMNS, FORMAT, INDEX, TABLE, FileFacts, ShardFacts, facts_digest, table_digest
from .tars import TarDataset

ROW = np.dtype(list(COLUMNS.items()))  # 36 bytes a sample, where a list of its numbers takes some 300


SHOWN = 1000
"""Wrong samples that one error names."""


class WrongSamples(DataError):
    """Samples of a source that cannot be written, all that there are, each as a line without the remedy."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        count = f"{len(faults)} samples are wrong: " if len(faults) > 1 else ""
        remedy = "" if faults[-1].endswith(" again") else "; fix the source"  # a reader may name a better one
        super().__init__(f"{count}{'; '.join(faults[:SHOWN])}{more}{remedy}")


def check(dataset: Dataset, opened: Source, split: str, root: Path, source: Path | None = None) -> None:
    """Raises DataError where writing a split to `root` would touch what we did not write (see ours.py), shards of
    another data set, or the source. Writes nothing."""
    if source is not None:
        target, raw = root.resolve(), source.resolve()
        if target == raw or target in raw.parents or raw in target.parents:
            raise DataError(f"{root} and the source {source} lie in one another; write the shards beside the source")
    final, hidden, replaced = _places(root, split)
    for place in (final, hidden, replaced):
        ours.check(place, split)
    before = ours.facts(final) or {}
    for key, now in (("dataset", dataset.name), ("class_names", list(opened.class_names))):
        if before.get(key, now) != now:
            what = f"{before[key]}" if key == "dataset" else f"{dataset.name} with other classes"
            raise DataError(f"{final} holds shards of {what}; name another folder, or remove that one")


def write(
    dataset: Dataset,
    split: str,
    root: Path,
    *,
    source: Path | None = None,
    opened: Source | None = None,
    samples_per_shard: int = 10_000,
    max_pixels: int = MAX_PIXELS,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `root/SPLIT/`: SPLIT-000000.tar and on, index.npz and index.json; the same bytes for the same samples.

    opened: the split at `source`, if it is open already. max_pixels: a picture of more is wrong. The folder is written
    under a hidden name and renamed when it is whole and synced. Interrupted, or stopped by wrong samples, it keeps its
    whole shards there, and the next call takes those whose samples are unchanged. progress is called with the numbers
    of samples written and to write. Raises WrongSamples with all of them, DataError when there are none, when the place
    is not ours (see `check`), or when the disk is full; then nothing is left behind.
    """
    final, hidden, replaced = _places(root, split)
    try:
        if opened is None:
            opened = dataset.open(split, source)
        if not len(opened):
            raise DataError(f"{dataset.name} {split} has no samples at its source; check the source")
        check(dataset, opened, split, root, source)
        hidden.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "dataset": dataset.name, "split": split}  # the folder is ours from now on
        _save_json(hidden / INDEX, about)
        parts = [range(i, min(i + samples_per_shard, len(opened))) for i in range(0, len(opened), samples_per_shard)]
        done, faults, count = [], [], 0
        job = _Job(dataset, opened, split, hidden, max_pixels)
        for part, result in zip(parts, _in_parallel(processes, job, list(enumerate(parts))), strict=True):
            if isinstance(result, Shard):
                done.append(result)
            else:
                faults += result
            count += len(part)
            if progress is not None:
                progress(count, len(opened))
        if faults:
            raise WrongSamples(list(dict.fromkeys(faults)))  # a recording of many samples is named once
        write_index(dataset, opened, split, hidden, done)
        for place in (final, replaced):  # it took long: somebody may have put something there
            ours.check(place, split)
        ours.remove(replaced, split)
        if ours.facts(final) is not None:
            os.rename(final, replaced)
        disk.publish(hidden, final)
        ours.remove(replaced, split)
    except OSError as error:
        if disk.is_full(error):
            ours.remove(hidden, split)
            raise DataError(disk.no_space(f"to write the shards in {final}")) from error
        raise DataError(f"cannot write the shards in {final} ({error.strerror}); choose another folder") from error
    return final


def _places(root: Path, split: str) -> tuple[Path, Path, Path]:
    """Of a split: where it is, where it is written, and where what it replaces goes before it is removed."""
    return root / split, root / f".{split}.tmp", root / f".{split}.old"


@dataclass(frozen=True)
class Shard:
    """A shard that is whole on the disk: its facts for index.json and its rows for index.npz."""

    facts: ShardFacts
    rows: NDArray[np.void]


@dataclass(frozen=True)
class _Job:
    """Writing one shard; called in any process."""

    dataset: Dataset
    opened: Source
    split: str
    folder: Path
    max_pixels: int

    def __call__(self, asked: tuple[int, range]) -> Shard | list[str]:
        """The shard, or what is wrong with its samples."""
        number, ids = asked
        path = self.folder / f"{self.split}-{number:06d}.tar"
        note = path.with_suffix(".npz")
        marks = "\n".join(self.opened.mark(i) for i in ids)
        of = FORMAT, self.dataset.name, self.dataset.shape, self.opened.class_names
        # Names of files need not be UTF-8.
        mark = hashlib.sha256(f"{of}\n{marks}".encode(errors="surrogateescape")).hexdigest()
        before = _noted(note, mark)
        if before is not None and path.is_file() and _facts(path).items() <= before.facts.items():
            return before
        shard = self.write(path, number, ids)
        if isinstance(shard, list):
            return shard
        _save(note, mark=np.array(mark), facts=np.array(json.dumps(shard.facts)), rows=shard.rows)
        return shard

    def write(self, path: Path, number: int, ids: range) -> Shard | list[str]:
        found: dict[str, tuple[int, ...]] = {}
        faults: list[str] = []
        # Fixed owner, mode and time: the same samples give the same bytes. An integer time, because tarfile spends a
        # kilobyte of extra header a member on a fraction.
        same: dict[str, object] = {"user": "0", "group": "0", "mode": 0o444, "mtime": 0}
        with path.open("wb") as file, TarWriter(file, encoder=False, **same) as tar:
            for i in ids:
                try:
                    sample = self.opened[i]
                    height, width = self.check(sample)
                except DataError as error:
                    faults.append(str(error).removesuffix("; fix the source"))
                    continue
                tar.write(
                    {
                        "__key__": sample.key,
                        sample.extension: sample.content,
                        "cls": str(sample.label).encode(),
                    }
                )
                size, crc = len(sample.content), zlib.crc32(sample.content)
                found[f"{sample.key}.{sample.extension}"] = (size, sample.label, crc, height, width)
        disk.sync(path)
        if faults:
            return faults
        with tarfile.open(path) as tar:
            rows = np.array([(number, m.offset_data, *found[m.name]) for m in tar if m.name in found], ROW)
        return Shard({"name": path.name, **_facts(path), "count": len(rows)}, rows)

    def check(self, sample: Sample) -> tuple[int, int]:
        """Height and width. Raises DataError, naming the sample, when it does not decode or fit the data set."""
        classes, (channels, *size) = len(self.opened.class_names), self.dataset.shape
        place = f"{self.dataset.name} {self.split} sample {sample.name or sample.key}"
        if not 0 <= sample.label < classes:
            raise DataError(f"{place} has label {sample.label}, outside 0..{classes - 1}")
        try:
            shape = KINDS.get(self.dataset.kind).measure(sample.content, channels, self.max_pixels)
            if any(size) and list(shape[1:]) != size:
                raise DataError(f"decodes to {list(shape)} instead of {list(self.dataset.shape)}")
        except DataError as error:
            raise DataError(f"{place} {error}") from error
        return shape[1], shape[2]


def _in_parallel(processes: int, job: _Job, asked: list[tuple[int, range]]) -> Iterator[Shard | list[str]]:
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


def _work(asked: tuple[int, range]) -> Shard | list[str]:
    return _job(asked)


def write_index(dataset: Dataset, opened: Source, split: str, folder: Path, done: list[Shard]) -> None:
    """index.npz and index.json of whole shards; nothing else of ours is left in the folder."""
    stale = ours.names(folder, split)  # notes for going on, and shards of an earlier try with other samples
    columns = {key: np.concatenate([shard.rows[key] for shard in done]) for key in COLUMNS}
    _save(folder / TABLE, **columns)
    facts: dict[str, object] = {
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
    if dataset.kind != unnamed(dataset.shape[0]).name:  # which older indexes do not have, so their bytes stay
        facts["kind"] = dataset.kind
    if titles := getattr(opened, "class_titles", None):
        facts["class_titles"] = list(titles)
    facts["digest"] = facts_digest(facts)
    _save_json(folder / INDEX, facts)
    for name in stale - {INDEX, TABLE, *(shard.facts["name"] for shard in done)}:
        (folder / name).unlink()
    disk.sync(folder)


def _noted(note: Path, mark: str) -> Shard | None:
    """What was noted of a shard, if it was of the same samples."""
    try:
        with np.load(note, allow_pickle=False) as kept:
            return Shard(json.loads(str(kept["facts"])), kept["rows"]) if kept["mark"] == mark else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _save(path: Path, **arrays: NDArray[np.generic]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    disk.sync(path)


def _save_json(path: Path, facts: Mapping[str, object]) -> None:
    path.write_text(json.dumps(facts, indent=1))
    disk.sync(path)


def verify(folder: Path) -> int:
    """Read every shard and compare it with the index; returns the number of samples. Raises DataError."""
    data = TarDataset(folder)
    for shard in data.facts["shards"]:
        if _facts(folder / shard["name"])["sha256"] != shard["sha256"]:
            bad = next((i for i in data.ids_of(shard["name"]) if not data.intact(i)), None)
            where = "" if bad is None else f" (first at sample {bad})"
            raise DataError(f"{folder / shard['name']} is damaged{where}; {AGAIN}")
    return len(data)


def _facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
