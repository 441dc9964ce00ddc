"""What an FFCV file can hold of a picture, without ffcv: as it is written, seen and cut out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.raw import catalog
from pipelines.samples import Pixels
from pipelines.store import tar_writer
from pipelines.store.stored import FILES, PIXELS, STORED, Kept, Stored
from pipelines.store.tars import TarDataset

BOX = (3, 5, 20, 24)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> TarDataset:
    """Six pictures, each of its own size."""
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (root / "source" / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 255, (30 + 7 * i, 41 + 3 * i, 3), np.uint8)
                Image.fromarray(pixels).save(root / "source" / split / name / f"{i}.png")
    return TarDataset(tar_writer.write(catalog.get("folder"), "train", root / "out", source=root / "source"))


def kept(stored: Stored, data: TarDataset, i: int) -> Kept:
    content, label = stored.content(data, i)
    assert label == data.labels[i] and content.nbytes == stored.sizes(data, None)[i]
    sides = None if all(data.shape) else np.array(content.shape[:2])
    return Kept(content.reshape(-1), data.shape, data.size(i), sides)


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_a_picture_and_a_box_of_it_are_those_of_the_shards(coloured: TarDataset, stored: Stored) -> None:
    boxes: list[Pixels] = []
    for i in range(len(coloured)):
        one = kept(stored, coloured, i)
        assert np.array_equal(stored.image(one), coloured.image(i))
        boxes.append(stored.crop(one, BOX, 12))
        assert np.array_equal(boxes[-1], coloured.crop(i, BOX, 12))
    assert len({box.tobytes() for box in boxes}) == len(boxes)


def test_grey_pictures_of_one_size(copy: Path) -> None:
    data = TarDataset(copy)
    for stored in STORED.values():
        one = kept(stored, data, 3)
        assert one.sides is None and np.array_equal(stored.image(one), data.image(3))
        assert np.array_equal(stored.crop(one, (0, 0, 8, 8), 8), data.image(3))


def test_pixels_are_brought_down_and_a_box_with_them(coloured: TarDataset) -> None:
    (height, width), pixels = coloured.size(0), coloured.image(0)[:, ::2, ::2]
    content, (_, high, wide) = np.ascontiguousarray(pixels.transpose(1, 2, 0)).reshape(-1), pixels.shape
    small = Kept(content, coloured.shape, (height, width), np.array([high, wide]))
    alone = Kept(content, coloured.shape, (high, wide), np.array([high, wide]))
    seen = PIXELS.crop(small, (0, 0, height / 2, width / 2), 10).astype(int)
    assert np.abs(seen - PIXELS.crop(alone, (0, 0, high / 2, wide / 2), 10)).max() <= 1
    assert PIXELS.sizes(coloured, 20)[0] == pytest.approx(3 * height * width * (20 / width) ** 2)
    assert FILES.original and not PIXELS.original
