"""Writing a data set as WebDataset tars with an index of offsets, sizes, labels and checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from webdataset import TarWriter

from .catalog import Dataset, decode
from .errors import DataError

INDEX, TABLE = "index.json", "index.npz"
COLUMNS = {"shard": np.int32, "offset": np.int64, "size": np.int64, "label": np.int32, "crc32": np.uint32}


def write(
    dataset: Dataset,
    split: str,
    root: Path,
    *,
    source: Path | None = None,
    samples_per_shard: int = 10_000,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write `root/SPLIT/`: SPLIT-000000.tar and on, index.npz and index.json; the same bytes for the same samples.

    The folder is written under a hidden name and renamed when it is whole and synced. progress is called with the
    number of samples written. Raises DataError, leaving nothing behind, when a sample is wrong or the disk is full.
    """
    final = root / split
    hidden, replaced = root / f".{split}.tmp", root / f".{split}.old"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        _write(dataset, split, hidden, source, samples_per_shard, progress)
        shutil.rmtree(replaced, ignore_errors=True)
        if final.exists():
            os.rename(final, replaced)
        os.rename(hidden, final)
        _sync(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"no space left to write the shards in {final}; free some and run it again") from error
        raise DataError(f"cannot write the shards in {final} ({error.strerror}); choose another folder") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return final


def _write(
    dataset: Dataset,
    split: str,
    folder: Path,
    source: Path | None,
    samples_per_shard: int,
    progress: Callable[[int], None] | None,
) -> None:
    rows: list[tuple[int, int, int, int, int]] = []
    shards: list[dict[str, Any]] = []
    samples = iter(dataset.read(split, source))
    while (first := next(samples, None)) is not None:
        shard, sizes = len(shards), {}
        name = f"{split}-{shard:06d}.tar"
        with (folder / name).open("wb") as file:
            # Fixed owner, mode and time: the same samples give the same bytes. An integer time, because tarfile
            # spends a kilobyte of extra header a member on a fraction.
            with TarWriter(file, user="0", group="0", mode=0o444, mtime=0, encoder=False) as tar:
                for key, content, label in chain([first], islice(samples, samples_per_shard - 1)):
                    _check(dataset, split, key, content, label)
                    tar.write({"__key__": key, "png": content, "cls": str(label).encode()})
                    sizes[key] = (len(content), label, zlib.crc32(content))
            file.flush()
            os.fsync(file.fileno())
        with tarfile.open(folder / name) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "png":
                    size, label, crc = sizes[key]
                    rows.append((shard, member.offset_data, size, label, crc))
        shards.append({"name": name, **_facts(folder / name), "count": len(sizes)})
        if progress is not None:
            progress(len(rows))
    if not rows:
        raise DataError(f"{dataset.name} {split} has no samples at its source; check the source")
    table = np.array(rows)
    columns = {key: table[:, i].astype(kind) for i, (key, kind) in enumerate(COLUMNS.items())}
    with (folder / TABLE).open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
        os.fsync(file.fileno())
    facts = {
        "dataset": dataset.name,
        "split": split,
        "count": len(rows),
        "class_names": list(dataset.class_names),
        "shape": list(dataset.shape),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "shards": shards,
        "digest": table_digest(columns),
    }
    with (folder / INDEX).open("w") as file:
        json.dump(facts, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def table_digest(columns: dict[str, Any]) -> str:
    """SHA-256 over the index's columns: labels and checksums included, so two data sets that differ differ in it."""
    digest = hashlib.sha256()
    for key, kind in COLUMNS.items():
        digest.update(np.ascontiguousarray(columns[key], dtype=np.dtype(kind).newbyteorder("<")).tobytes())
    return digest.hexdigest()


def verify(folder: Path) -> int:
    """Read every shard and compare it with the index; returns the number of samples. Raises DataError."""
    from .webdataset import TarDataset

    data = TarDataset(folder)
    for shard in data.facts["shards"]:
        if _facts(folder / shard["name"])["sha256"] != shard["sha256"]:
            bad = next((i for i in data.ids_of(shard["name"]) if not data.intact(i)), None)
            where = "" if bad is None else f" (first at sample {bad})"
            raise DataError(f"{folder / shard['name']} is damaged{where}; write the shards again with tdformer shard")
    return len(data)


def _check(dataset: Dataset, split: str, key: str, content: bytes, label: int) -> None:
    if not 0 <= label < dataset.classes:
        raise DataError(
            f"{dataset.name} {split} sample {key} has label {label}, outside 0..{dataset.classes - 1}; fix the source"
        )
    try:
        decode(content, dataset.shape)
    except DataError as error:
        raise DataError(f"{dataset.name} {split} sample {key} {error}; fix the source") from error


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
