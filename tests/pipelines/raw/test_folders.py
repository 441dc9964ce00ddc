"""Folders of pictures and archives as shards: original bytes, resumed, in parallel, and read back as boxes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from global_batches import global_batches
from PIL import Image

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import eval_loader
from pipelines.raw import catalog
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset
from pipelines.views.boxes import View

FOLDER = catalog.get("folder")
ROOT = Path(__file__).parents[3]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """90 + 30 photographs of 3 classes, each of its own size; one of them is a PNG."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 10)):
        for name in ("cat", "dog", "owl"):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3), np.uint8)
                kind = "png" if i == 7 else "JPEG"
                Image.fromarray(pixels).save(folder / f"{i:03d}.{kind}")
    return tmp_path / "source"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_file_is_there_with_its_bytes_label_and_size(source: Path, tmp_path: Path):
    data = TarDataset(shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20))
    assert data.class_names == ["cat", "dog", "owl"] and data.shape == (3, 0, 0) and len(data) == 90
    raw = {p.read_bytes(): (p.parent.name, Image.open(p).size) for p in source.glob("train/*/*")}
    for i in range(len(data)):
        content, label = data.read(i)
        name, (width, height) = raw.pop(content)
        assert (data.class_names[label], data.size(i)) == (name, (height, width))
    assert not raw
    assert all(len(set(data.labels[data.ids_of(path.name)])) == 3 for path in data.paths[:4])  # classes are mixed


def test_any_number_of_processes_writes_the_same(source: Path, tmp_path: Path):
    counted: list[tuple[int, int]] = []
    one = shards.write(FOLDER, "train", tmp_path / "one", source=source, samples_per_shard=20)
    two = shards.write(
        FOLDER,
        "train",
        tmp_path / "two",
        source=source,
        samples_per_shard=20,
        processes=2,
        progress=lambda *of: counted.append(of),
    )
    assert files(one) == files(two) and counted == [(20, 90), (40, 90), (60, 90), (80, 90), (90, 90)]


PROGRAM = """
import os, signal, sys
from pathlib import Path
from pipelines.raw import catalog
from pipelines.store import tar_writer
def progress(done, of):
    if done == 60:
        os.kill(os.getpid(), signal.SIGKILL)
source, folder = Path("source").resolve(), catalog.get("folder")
tar_writer.write(folder, "train", Path("out"), source=source, samples_per_shard=20, progress=progress)
"""


def test_a_killed_write_goes_on_with_what_is_whole_and_unchanged(source: Path, tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out" / "train").exists()
    hidden = tmp_path / "out" / ".train.tmp"
    kept = {name: (hidden / f"train-{name:06d}.tar").stat().st_mtime_ns for name in range(3)}
    (hidden / "train-000001.tar").write_bytes(b"damaged since")
    first = catalog.get("folder").open("train", source)[45].name
    Image.new("RGB", (30, 40)).save(first)  # of the third shard: another picture now
    folder = shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20)
    now = {name: (folder / f"train-{name:06d}.tar").stat().st_mtime_ns for name in range(3)}
    assert [now[i] == kept[i] for i in range(3)] == [True, False, False]
    assert files(folder) == files(
        shards.write(FOLDER, "train", tmp_path / "fresh", source=source, samples_per_shard=20)
    )


def test_a_wrong_picture_is_named_and_mended_without_beginning_again(source: Path, tmp_path: Path):
    bad = Path(FOLDER.open("train", source)[50].name)
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=f"{re.escape(str(bad))} does not decode as a picture .*fix the source"):
        shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20, processes=2)
    assert not (tmp_path / "out" / "train").exists()
    before = (tmp_path / "out" / ".train.tmp" / "train-000000.tar").stat().st_mtime_ns
    bad.write_bytes(good)
    folder = shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20)
    assert (folder / "train-000000.tar").stat().st_mtime_ns == before and len(TarDataset(folder)) == 90


def test_a_picture_that_goes_away_is_the_sources_fault(source: Path, tmp_path: Path):
    gone = Path(FOLDER.open("train", source)[50].name)
    gone.unlink()
    gone.symlink_to("nowhere.jpg")
    with pytest.raises(DataError, match=f"{re.escape(str(gone))} cannot be read .No such file.*; fix the source"):
        shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda s: (s / "val").rename(s / "valid"), "has no folder val or validation or test"),
        (lambda s: (s / "val" / "fox").mkdir(), "val has other classes than .*train: 'fox' is extra"),
        (lambda s: (s / "train" / "fox").mkdir(), "val has other classes than .*train: 'fox' is missing"),
        (
            lambda s: [p.unlink() for p in s.glob("val/*/*")],
            "val/owl: nothing to read .no files.; fill it,",
        ),
    ],
)
def test_a_folder_that_is_none_is_one_line(source: Path, tmp_path: Path, damage, expected: str):
    damage(source)
    with pytest.raises(DataError, match=expected):
        shards.write(FOLDER, "test", tmp_path / "out", source=source)
    with pytest.raises(DataError, match="give it with --source"):
        shards.write(FOLDER, "test", tmp_path / "out")


def test_boxes_are_the_same_for_any_ranks_and_workers_and_after_resuming(source: Path, tmp_path: Path):
    data = TarDataset(shards.write(FOLDER, "train", tmp_path / "out", source=source, samples_per_shard=20))
    view = View(16, seed=5)

    def images(world: int, workers: int, step: int = 0) -> torch.Tensor:
        cursor = order.Cursor(5, 1, step, 12, data.digest)
        return torch.stack([b.images for b in global_batches(data, cursor, world, workers=workers, view=view)])

    whole = images(1, 0)
    assert whole.shape == (7, 12, 3, 16, 16)
    assert torch.equal(images(3, 2), whole) and torch.equal(images(2, 0, step=4), whole[4:])
    first = int(order.permutation(5, 1, 90)[0])
    assert np.array_equal(whole[0, 0], data.crop(first, view.random(*data.size(first), 1, first), 16))
    seen = torch.cat([b.images for b in eval_loader(data, rank=0, world=1, batch_size=32, workers=0, view=view)])
    assert np.array_equal(seen[5], data.crop(5, view.centre(*data.size(5)), 16))
