"""The FFCV copy: the same samples, ids, boxes and batches as the shards; every damage found and named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import index_files
import numpy as np
import pytest
import torch
from global_batches import global_batches, same

pytest.importorskip("ffcv", reason="ffcv is not installed (.ci/install.sh)")

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import Batch, eval_loader
from pipelines.samples import Samples
from pipelines.store import beton_writer as beton
from pipelines.store import index
from pipelines.store.beton import BetonDataset
from pipelines.store.tars import TarDataset
from pipelines.views.boxes import View

ROOT = Path(__file__).parents[3]
VIEW = View(32)


def batches(data: Samples, world: int = 1, workers: int = 0) -> list[Batch]:
    return global_batches(data, order.Cursor(0, 1, 0, 12, data.digest), world, workers=workers, view=VIEW)


@pytest.mark.parametrize("processes", [1, 2])
def test_original_files_give_the_same_batches_to_the_bit(folder: Path, processes: int):
    beton.write(folder, stored="files", processes=processes)
    tars, copy = TarDataset(folder), BetonDataset(folder)
    assert len(copy) == len(tars) and copy.digest == tars.digest and (copy.labels == tars.labels).all()
    assert same(batches(copy, 3, 2), batches(tars))


def test_pixels_show_the_same_boxes(folder: Path):
    beton.write(folder)
    tars, copy = TarDataset(folder), BetonDataset(folder)
    for i in range(len(tars)):
        assert (copy.image(i) == tars.image(i)).all()
    one, other = batches(copy, 2, 1), batches(tars)
    assert len(one) == len(other) == 5
    for ours, theirs in zip(one, other, strict=True):
        assert torch.equal(ours.ids, theirs.ids)
        assert (ours.images.float() - theirs.images.float()).abs().mean() < 1.5
    (seen,) = eval_loader(copy, rank=0, world=1, batch_size=60, workers=0, view=VIEW)
    (exact,) = eval_loader(tars, rank=0, world=1, batch_size=60, workers=0, view=VIEW)
    assert torch.equal(seen.labels, exact.labels) and (seen.images.float() - exact.images.float()).abs().mean() < 1.5


def test_pixels_brought_down_show_the_same_boxes(folder: Path):
    beton.write(folder, max_side=100)
    tars, copy = TarDataset(folder), BetonDataset(folder)
    assert max(max(copy.image(i).shape[1:]) for i in range(len(copy))) == 100
    assert [copy.size(i) for i in range(60)] == [tars.size(i) for i in range(60)]
    for i in range(60):
        box = VIEW.random(*tars.size(i), 0, i)
        assert np.abs(copy.crop(i, box, 32).astype(float) - tars.crop(i, box, 32)).mean() < 6


def test_grey_pictures_of_one_size(copy: Path):
    folder = copy.rename(copy.with_name("test"))
    beton.write(folder)
    tars, made = TarDataset(folder), BetonDataset(folder)
    assert all((made.image(i) == tars.image(i)).all() for i in range(len(tars)))
    box = (0.0, 0.0, 8.0, 8.0)
    assert (made.crop(3, box, 12) == tars.crop(3, box, 12)).all()


def test_ffcv_itself_reads_the_same_samples(folder: Path, copy: Path):
    """Its own loader, in the order of the file."""
    from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    def read(made: BetonDataset, decoder: Any) -> np.ndarray:
        pipelines = {"image": [decoder], "label": [IntDecoder()]}
        loader = Loader(str(made.path), 20, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines)
        seen = [(images.copy(), labels.copy()) for images, labels in loader]
        assert (np.concatenate([labels[:, 0] for _, labels in seen]) == made.labels).all()
        return np.concatenate([images for images, _ in seen])

    digits = copy.rename(copy.with_name("test"))
    for place in (folder, digits):
        beton.write(place)
    made = BetonDataset(digits)
    assert (read(made, NDArrayDecoder()) == np.stack([made.image(i) for i in range(len(made))])).all()
    made, view = BetonDataset(folder), View(32, crop_ratio=1)
    ours = np.stack([made.crop(i, view.centre(*made.size(i)), 32) for i in range(60)]).transpose(0, 2, 3, 1)
    assert np.abs(ours.astype(float) - read(made, CenterCropRGBImageDecoder((32, 32), 1))).mean() < 4  # by areas


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def of_a_later_version(path: Path) -> None:
    with np.load(beton.checks(path)) as table:
        facts = dict(table)
    np.savez(beton.checks(path), **facts | {"stored": np.array("halves")})


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda p: p.unlink(), "train.beton is missing"),
        (lambda p: beton.checks(p).unlink(), "train.beton.npz is missing"),
        (lambda p: beton.checks(p).write_bytes(b"PK"), "train.beton.npz cannot be read"),
        (lambda p: cut(p, p.stat().st_size - 4096), "bytes instead of"),
        (lambda p: cut(p, 0), "bytes instead of"),
        (lambda p: overwrite(p, 0, b"\xff" * 8), "cannot be read (AssertionError)"),
        (lambda p: of_a_later_version(p), "says that train.beton holds 'halves'"),
        (lambda p: overwrite(p, p.stat().st_size - 100, b"\xff"), "is damaged in its bytes"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, damage: Callable[[Path], None], line: str):
    damage(beton.write(folder))
    with pytest.raises(DataError) as told:
        BetonDataset(folder)
    assert line in str(told.value) and "tdformer shard --to ffcv" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_zeroed_picture_is_named_where_ffcv_shows_it_black(folder: Path):
    path = beton.write(folder)
    begins = BetonDataset(folder)._first
    overwrite(path, int(begins[17]) + 50, bytes(1000))
    with pytest.raises(DataError, match=r"is damaged in its bytes \d+ to \d+ \(first at sample \d+\)"):
        BetonDataset(folder)


def test_it_is_compared_once_and_again_after_a_change(folder: Path):
    path = beton.write(folder)
    compared: list[int] = []

    def count(done: int, of: int) -> None:
        compared.append(done)

    BetonDataset(folder, count)
    first = len(compared)
    BetonDataset(folder, count)
    assert first == len(compared) > 0
    os.utime(path)
    BetonDataset(folder, count, trusted=True)  # by a rank, after the command that started it
    assert len(compared) == first
    BetonDataset(folder, count)
    assert len(compared) == 2 * first
    BetonDataset(folder).verify(count, again=True)
    assert len(compared) == 3 * first


def test_shards_written_again_make_it_stale(folder: Path, photographs: Path):
    beton.write(folder)
    with np.load(folder / "index.npz") as table:
        columns = {key: table[key] for key in table.files}
    columns["crc32"] = columns["crc32"] + 1
    np.savez(folder / "index.npz", **columns)
    index_files.edit(folder, columns=index.table_digest(columns))
    with pytest.raises(DataError, match="was made from other shards than the index beside it"):
        BetonDataset(folder)
