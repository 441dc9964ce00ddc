"""The sample order at ImageNet's size: bytes of the index, memory to write it, time to open it, to shuffle, to resume.

    python -m benchmarks.order [--samples 1281167] [--rounds 5]

The index is a real one of that many rows, beside shard files of the right sizes that hold nothing. Resuming is what
a rank does between opening its data and asking for its first batch, in the middle of an epoch. Times are medians;
ratios are against reading the index's bytes from the page cache, in the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import order
from pipelines.raw import catalog
from pipelines.raw.folders import Files
from pipelines.store import index, tar_writer
from pipelines.store.tars import TarDataset

from . import machine, table


def write_index(folder: Path, samples: int) -> str:
    """As `tdformer shard imagenet` does, for pictures of about 110 kB; what memory it took."""
    rng = np.random.default_rng(0)
    classes = tuple(f"n{i:08d}" for i in range(1000))
    tracemalloc.start()
    labels = rng.integers(0, 1000, samples).astype(np.int32)
    names = np.array([f"{classes[label]}_{i % 1300}.JPEG".encode() for i, label in enumerate(labels)], np.bytes_)
    source = Files(folder, classes, names, labels)
    done = [
        _shard(folder, number, part) for number, part in enumerate(np.split(labels, range(10_000, samples, 10_000)))
    ]
    kept = sum(shard.rows.nbytes for shard in done)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    tar_writer.write_index(catalog.get("imagenet"), source, "train", folder, done)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parts = names.nbytes + labels.nbytes, kept, peak - before
    files, rows, more = (f"{part / 2**20:.0f} MiB" for part in parts)
    return f"Memory of writing it: names and labels of the files {files}, rows {rows}, and {more} more at the end."


def _shard(folder: Path, number: int, labels: NDArray[np.int32]) -> tar_writer.Shard:
    rng = np.random.default_rng(number)
    rows = np.empty(len(labels), tar_writer.ROW)
    rows["shard"], rows["label"] = number, labels
    rows["size"] = rng.integers(50_000, 170_000, len(labels))
    rows["offset"] = np.cumsum(rows["size"]) - rows["size"]
    rows["crc32"] = rng.integers(0, 2**32, len(labels))
    rows["height"], rows["width"] = rng.integers(200, 600, (2, len(labels)))
    name, size = f"train-{number:06d}.tar", int(rows["size"].sum())
    with (folder / name).open("wb") as file:
        file.truncate(size)  # sparse: no disk is used
    return tar_writer.Shard({"name": name, "bytes": size, "count": len(labels)}, rows)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    found: dict[str, list[float]] = {"read the bytes": [], "open": [], "shuffle": [], "resume": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = write_index(folder, asked.samples)
        for _ in range(asked.rounds):
            begun = time.perf_counter()
            size = len((folder / index.TABLE).read_bytes())
            read = time.perf_counter()
            data = TarDataset(folder)
            opened = time.perf_counter()
            permuted = order.permutation(0, 1, len(data))
            shuffled = time.perf_counter()
            cursor = order.Cursor(0, 1, len(data) // 512 // 2, 512, data.digest)
            cursor.check(data.digest)
            again = order.permutation(cursor.seed, cursor.epoch, len(data))
            ((_, first),) = order.Share(64, rank=3, world=8).of(order.global_batch(again, cursor.step, 512))
            resumed = time.perf_counter()
            assert np.array_equal(first, permuted[cursor.step * 512 + 192 :][:64])
            moments = (begun, read, opened, shuffled, resumed)
            for key, start, end in zip(found, moments, moments[1:], strict=False):
                found[key].append(end - start)
        memory = sum(column.nbytes for column in data.table.values())
    print(f"{machine()}; {asked.samples:,} samples, {asked.rounds} rounds\n")
    print(f"index: {size / 2**20:.0f} MiB on the disk, {memory / 2**20:.0f} MiB in memory, ", end="")
    print(f"the order of an epoch {permuted.nbytes / 2**20:.0f} MiB. {written}\n")
    base = statistics.median(found["read the bytes"])
    rows = [[k, f"{statistics.median(v):.3f}", f"{statistics.median(v) / base:.1f}"] for k, v in found.items()]
    print(table(["", "s", "ratio"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
