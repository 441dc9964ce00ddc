"""Some of the samples, and those that are in memory: the same pictures, as all others are read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.loader import eval_loader
from pipelines.raw import catalog
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset
from pipelines.views.boxes import View
from pipelines.views.corrupted import Made
from pipelines.views.like import Held, Some


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> TarDataset:
    """30 grey pictures, sorted by class."""
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 12, 12), np.uint8)
    dataset = replace(
        catalog.get("digits"),
        shape=(1, 12, 12),
        load=lambda split, source: (images, np.arange(30) // 3),
    )
    return TarDataset(shards.write(dataset, "test", tmp_path_factory.mktemp("clean"), samples_per_shard=8))


@pytest.mark.parametrize("workers", [0, 2])
def test_some_are_of_each_class_and_in_memory_what_they_were(clean: TarDataset, workers: int) -> None:
    source = Made(clean, 0)
    assert "saturate" not in source.kinds and len(source.kinds) == 18
    corrupted = source.read("gaussian_noise", 2)
    some = Some(corrupted, 10)
    assert some.labels.tolist() == list(range(10))
    view = View(8, crop_ratio=1.0)
    batches = list(eval_loader(some, batch_size=4, workers=workers, view=view))
    images = np.concatenate([batch.images.numpy() for batch in batches])
    expected = [view.see(corrupted, 3 * i, None) for i in range(10)]
    assert np.array_equal(images, expected) and images.shape == (10, 1, 8, 8)
    held = Held(some, images)
    [again] = eval_loader(held, batch_size=10)
    assert np.array_equal(again.images.numpy(), images) and again.labels.tolist() == some.labels.tolist()


def test_other_pictures_have_another_digest(clean: TarDataset) -> None:
    one = Made(clean, 0)
    samples = [clean, one.read("fog", 1), one.read("fog", 2), one.read("snow", 1), Made(clean, 1).read("fog", 1)]
    samples += [Some(clean, 10), Some(clean, 5), Some(one.read("fog", 1), 5)]
    digests = [each.digest for each in samples]
    assert len(set(digests)) == len(digests)
    assert one.read("fog", 1).digest == digests[1]
