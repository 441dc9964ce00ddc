"""Random damage to a split's folder: each is found, in one line, or changes nothing that is read."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.store import beton_writer as beton
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset

Damage = Callable[[random.Random, Path, Path], None]


def flip(rng: random.Random, path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(rng: random.Random, path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def extend(rng: random.Random, path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randrange(1, 600)))


def blank(rng: random.Random, path: Path, _: Path) -> None:
    """A block of zeros, as a disk leaves it."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content))
    content[at : at + 512] = bytes(len(content[at : at + 512]))
    path.write_bytes(content)


def exchange(rng: random.Random, path: Path, other: Path) -> None:
    """The file of another conversion."""
    shutil.copy(other / path.name, path)


def swap(rng: random.Random, path: Path, _: Path) -> None:
    """Two values of index.json, or two places of index.npz, take each other's place."""
    if path.suffix == ".npz":
        with np.load(path) as table:
            columns = dict(table)
        column = columns[rng.choice(sorted(columns))]
        if column.ndim and len(column) > 1:
            i, j = rng.sample(range(len(column)), 2)
            column[[i, j]] = column[[j, i]]
        np.savez(path, allow_pickle=False, **columns)
        return
    facts = json.loads(path.read_text())
    places = [(facts, key) for key in facts]
    places += [(shard, key) for shard in facts["shards"] for key in shard]
    places += [
        (facts[key], i) for key in ("class_names", "shape", "mean", "std", "shards") for i in range(len(facts[key]))
    ]
    (one, a), (two, b) = rng.sample(places, 2)
    one[a], two[b] = two[b], one[a]
    path.write_text(json.dumps(facts, default=str, skipkeys=True))


def what_is_read(folder: Path, opened: Callable[[Path], Any]) -> list[Any]:
    """Everything that a run takes from a split."""
    data = opened(folder)
    facts = [
        data.digest,
        data.class_names,
        data.shape,
        data.mean,
        data.std,
        data.facts["dataset"],
        data.labels.tolist(),
    ]
    return [*facts, [data.size(i) for i in range(len(data))], [data.image(i).tobytes() for i in range(len(data))]]


def check(
    folder: Path, other: Path, names: list[str], damages: list[Damage], opened: Callable[[Path], Any], trials: int = 40
) -> None:
    """Every damage of every file, `trials` times from a seed."""
    whole = what_is_read(folder, opened)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = 0
    for name in names:
        for damage in damages:
            rng = random.Random(f"{name} {damage.__name__}")
            for trial in range(trials if damage is not exchange else 1):
                damage(rng, folder / name, other)
                what = f"{damage.__name__} of {name}, trial {trial}"
                try:
                    assert what_is_read(folder, opened) == whole, what
                except DataError as error:
                    found += 1
                    assert "\n" not in str(error) and str(folder) in str(error), what
                (folder / name).write_bytes(files[name])
                for extra in {path.name for path in folder.iterdir()} - set(files):
                    (folder / extra).unlink()
    assert what_is_read(folder, opened) == whole
    assert found >= trials


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """40 pictures of two conversions, in two shards."""
    made = []
    for name, first in (("one", 0), ("other", 40)):
        images, labels = catalog.get("digits").load("test", None)  # type: ignore[attr-defined]
        part = slice(first, first + 40)

        def load(split: str, source: Path | None, part: Any = (images[part], labels[part])) -> Any:
            return part

        dataset = ArrayDataset("digits", (1, 8, 8), (0.28777,), (0.35409,), tuple("0123456789"), load)
        made.append(shards.write(dataset, "test", tmp_path / name, samples_per_shard=20))
    return made[0], made[1]


def test_damage_to_shards_and_index_is_found_or_changes_nothing(small: tuple[Path, Path]) -> None:
    names = ["index.json", "index.npz", "test-000001.tar"]
    check(*small, names, [flip, cut, extend, blank, exchange], TarDataset)
    check(*small, names[:2], [swap], TarDataset)


def test_damage_to_an_ffcv_copy_is_found_or_changes_nothing(small: tuple[Path, Path]) -> None:
    pytest.importorskip("ffcv", reason="ffcv is not installed (.ci/install.sh)")
    from pipelines.store.beton import BetonDataset

    for folder in small:
        beton.write(folder)
    names = ["index.json", "index.npz", "test.beton.npz"]
    check(*small, names, [flip, cut, extend, blank, exchange, swap], BetonDataset, trials=15)
    check(*small, ["test.beton"], [flip, cut, extend, blank, exchange], BetonDataset, trials=5)
