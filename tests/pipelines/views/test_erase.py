"""Erasing at once, and of a batch by what was drawn for it, is the same; and nothing but a box is touched."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from global_batches import same

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import Batch, train_loader
from pipelines.samples import InTwo, Pixels, Samples
from pipelines.store.tars import TarDataset
from pipelines.views.augment import Augment
from pipelines.views.erase import Erasing
from pipelines.views.frames import EventAugment
from pipelines.workers import Workers

CPU = torch.device("cpu")
PHOTOS = np.random.default_rng(0).integers(0, 256, (24, 20, 28, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
ALL: dict[str, Any] = {"crop_padding": 2, "flip": 0.5, "erasing": 0.6, "color_jitter": 0.4, "seed": 3}
COLOURS: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


@pytest.mark.parametrize("mode", ["black", "const", "pixel"])
@pytest.mark.parametrize("recipe", [None, "rand-m9-mstd0.5-inc1"])
def test_a_batch_erased_later_is_that_erased_at_once(mode: str, recipe: str | None):
    """RandAugment draws from the same generator before; it leaves it in the middle of a block of four, and with half a
    number that is not drawn yet."""
    augment = Augment(**ALL, **COLOURS, erasing_mode=mode, rand_augment=recipe)
    assert isinstance(augment, InTwo) and augment.finishes_on(CPU)
    whole = np.stack([augment(photo, 4, i) for i, photo in enumerate(PHOTOS)])
    begun = [pickle.loads(pickle.dumps(augment)).begin(photo, 4, i) for i, photo in enumerate(PHOTOS)]
    images, drawn = (np.stack(one) for one in zip(*begun, strict=True))
    erased = [i for i in range(len(PHOTOS)) if not np.array_equal(images[i], whole[i])]
    assert 8 < len(erased) < 20 and erased == np.flatnonzero(drawn[:, 2]).tolist()
    if mode == "pixel":
        assert len(set(drawn[erased, 6] % 4)) > 1
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = torch.from_numpy(images).clone(memory_format=layout)
        augment.finish(batch, torch.from_numpy(drawn))
        assert np.array_equal(batch.numpy(), whole)


def test_black_needs_no_colours_and_colours_are_rounded_as_noise_is():
    image = np.full((2, 20, 28), 7, np.uint8)
    found = Augment(erasing=1)(image, 0, 0)
    assert set(np.unique(found)) == {0, 7} and image.min() == 7
    assert Erasing("const", (0.5, 0.1), (1.0, 1.0)).colour.ravel().tolist() == [128, 26]  # 127.5: to the even
    with pytest.raises(DataError, match="erasing_mode is 'noise'; choose one of black, const, pixel"):
        Erasing("noise")


@dataclass(frozen=True)
class Inverted(Augment):
    """What is made of the class may do more when it is called."""

    def __call__(self, image: Pixels, epoch: int, sample_id: int) -> Pixels:
        return 255 - super().__call__(image, epoch, sample_id)


def test_only_what_erases_and_is_known_is_left_to_a_device():
    assert not Augment(flip=0.5).finishes_on(CPU)
    assert not Inverted(erasing=0.5).finishes_on(CPU)
    assert not Augment(erasing=0.5).finishes_on(torch.device("meta"))
    assert not isinstance(EventAugment(), InTwo)


def epoch(data: Samples, augment: Augment, workers: int | Workers, step: int = 0, **options: Any) -> list[Batch]:
    at = order.Cursor(5, 1, step, 48, data.digest)
    batches = train_loader(data, at, order.Share(24, 2), augment=augment, workers=workers, **options)
    return [batch for both in batches for batch in both]


def finished(augment: Augment, batches: list[Batch]) -> list[Batch]:
    for batch in batches:
        assert batch.drawn is not None
        augment.finish(batch.images, batch.drawn)
    return batches


@pytest.mark.parametrize("mode", ["black", "const", "pixel"])
def test_workers_leave_it_and_the_batches_are_the_same(data: TarDataset, mode: str):
    """By two processes and by this one, from the beginning and from the middle of an epoch."""
    augment = Augment(crop_padding=1, flip=0.5, erasing=0.5, seed=5, erasing_mode=mode, mean=(0.3,), std=(0.4,))
    expected = epoch(data, augment, 0)
    assert all(batch.drawn is None for batch in expected)
    with_workers, alone = (epoch(data, augment, workers, finish=False) for workers in (2, 0))
    assert not same(alone, expected)
    assert same(finished(augment, alone), expected) and same(finished(augment, with_workers), expected)
    assert same(finished(augment, epoch(data, augment, 2, 3, finish=False)), expected[6:])


@pytest.mark.parametrize("workers", [0, 2])
def test_what_stands_in_for_a_damaged_sample_is_erased_by_its_own_draws(copy: Path, workers: int):
    data = TarDataset(copy)
    for broken in (5, 140, 333):
        tar = copy / data.paths[int(data.table["shard"][broken])].name
        content = bytearray(tar.read_bytes())
        content[int(data.table["offset"][broken]) + 9] ^= 0xFF
        tar.write_bytes(content)
    augment = Augment(erasing=0.9, seed=5, erasing_mode="pixel", mean=(0.3,), std=(0.4,))
    expected = epoch(data, augment, 0, skip=True)
    found = finished(augment, epoch(data, augment, workers, skip=True, finish=False))
    assert same(found, expected)
    assert {i for batch in found for i in batch.damaged} == {5, 140, 333}
