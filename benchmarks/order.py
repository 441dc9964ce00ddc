"""The sample order at ImageNet's size: bytes of the index, time to open it, to shuffle, and to resume.

    python -m benchmarks.order [--samples 1281167] [--rounds 5]

The index is a real one of that many rows, beside one shard file of the right size that holds nothing. Resuming is what
a rank does between opening its data and asking for its first batch, in the middle of an epoch. Times are medians;
ratios are against reading the index's bytes from the page cache, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipelines import index, order
from pipelines.webdataset import TarDataset

from . import machine, table


def write_index(folder: Path, samples: int) -> None:
    """Rows as `tdformer shard` writes them, for pictures of about 110 kB."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(50_000, 170_000, samples)
    columns = {
        "shard": np.zeros(samples),
        "offset": np.cumsum(sizes) - sizes,
        "size": sizes,
        "label": rng.integers(0, 1000, samples),
        "crc32": rng.integers(0, 2**32, samples),
        "height": rng.integers(200, 600, samples),
        "width": rng.integers(200, 600, samples),
    }
    typed = {key: columns[key].astype(kind) for key, kind in index.COLUMNS.items()}
    np.savez(folder / index.TABLE, allow_pickle=False, **typed)
    name, size = "train-000000.tar", int(sizes.sum())
    with (folder / name).open("wb") as file:
        file.truncate(size)  # sparse: no disk is used
    facts = {
        "format": index.FORMAT,
        "dataset": "imagenet",
        "split": "train",
        "count": samples,
        "class_names": [f"{i:03d}" for i in range(1000)],
        "shape": [3, 0, 0],
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "shards": [{"name": name, "bytes": size, "count": samples}],
        "digest": index.table_digest(typed),
    }
    (folder / index.INDEX).write_text(json.dumps(facts))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    found: dict[str, list[float]] = {"read the bytes": [], "open": [], "shuffle": [], "resume": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_index(folder, asked.samples)
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
            first = order.share(order.global_batch(again, cursor.step, 512), 3, 8)
            resumed = time.perf_counter()
            assert np.array_equal(first, permuted[cursor.step * 512 + 192 :][:64])
            moments = (begun, read, opened, shuffled, resumed)
            for key, start, end in zip(found, moments, moments[1:], strict=False):
                found[key].append(end - start)
        memory = sum(column.nbytes for column in data.table.values())
    print(f"{machine()}; {asked.samples:,} samples, {asked.rounds} rounds\n")
    print(f"index: {size / 2**20:.0f} MiB on the disk, {memory / 2**20:.0f} MiB in memory, ", end="")
    print(f"the order of an epoch {permuted.nbytes / 2**20:.0f} MiB\n")
    base = statistics.median(found["read the bytes"])
    rows = [[k, f"{statistics.median(v):.3f}", f"{statistics.median(v) / base:.1f}"] for k, v in found.items()]
    print(table(["", "s", "ratio"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
