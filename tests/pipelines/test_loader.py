"""Loading: the same bits for any number of workers and ranks, from any step on, and errors that reach the caller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import order
from pipelines.augment import Augment
from pipelines.errors import DataError
from pipelines.loader import Batch, eval_loader, to_device, train_loader
from pipelines.mix import mix, soft_targets
from pipelines.webdataset import TarDataset

AUGMENT = Augment(crop_padding=2, flip=0.5, erasing=0.5, seed=5)
SIZE = 240


def steps(
    data: TarDataset, step: int = 0, world: int = 1, micro: int = SIZE, workers: int = 0, epoch: int = 1
) -> list[list[Batch]]:
    """The global batches, each as its micro-batches in order of rank."""
    loaders = [
        list(
            train_loader(
                data,
                order.Cursor(3, epoch, step, SIZE, data.digest),
                rank=rank,
                world=world,
                micro_batch=micro,
                accumulation=SIZE // world // micro,
                augment=AUGMENT,
                workers=workers,
            )
        )
        for rank in range(world)
    ]
    return [[batch for part in parts for batch in part] for parts in zip(*loaders, strict=True)]


def together(micro_batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    position = 0
    for batch in micro_batches:
        assert batch.position == position
        position += len(batch.ids)
    return tuple(torch.cat([getattr(b, name) for b in micro_batches]) for name in ("images", "labels", "ids"))  # type: ignore[return-value]


@pytest.mark.parametrize(("world", "micro", "workers"), [(1, 60, 0), (2, 60, 2), (3, 80, 0), (4, 20, 1)])
def test_ranks_micro_batches_and_workers_change_nothing(written: Path, world: int, micro: int, workers: int) -> None:
    data = TarDataset(written / "train")
    reference = steps(data)
    assert len(reference) == 1442 // SIZE
    for one, other in zip(reference, steps(data, 0, world, micro, workers), strict=True):
        for a, b in zip(together(one), together(other), strict=True):
            assert torch.equal(a, b)


def test_resuming_gives_the_rest_and_reads_nothing_before_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TarDataset(written / "train")
    whole = steps(data)
    read: list[int] = []
    original = TarDataset.image
    monkeypatch.setattr(TarDataset, "image", lambda self, i: read.append(int(i)) or original(self, i))
    rest = steps(data, step=4)
    expected = [together(batches) for batches in whole[4:]]
    for (images, labels, ids), batches in zip(expected, rest, strict=True):
        got = together(batches)
        assert torch.equal(images, got[0]) and torch.equal(labels, got[1]) and torch.equal(ids, got[2])
    assert read == [int(i) for _, _, ids in expected for i in ids]


def test_labels_and_pictures_belong_to_their_ids(written: Path) -> None:
    data = TarDataset(written / "train")
    for batch in train_loader(
        data,
        order.Cursor(0, 0, 0, SIZE, data.digest),
        rank=0,
        world=1,
        micro_batch=SIZE,
        accumulation=1,
        augment=None,
        workers=0,
    ):
        for image, label, i in zip(batch[0].images, batch[0].labels, batch[0].ids, strict=True):
            assert np.array_equal(image.numpy(), data.image(int(i))) and int(label) == data.labels[int(i)]


@pytest.mark.parametrize("world", [1, 2, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_each_sample_once(written: Path, world: int, workers: int) -> None:
    data = TarDataset(written / "test")
    ids = [
        int(i)
        for rank in range(world)
        for batch in eval_loader(data, rank=rank, world=world, batch_size=50, workers=workers)
        for i in batch.ids
    ]
    assert sorted(ids) == list(range(355))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_reaches_the_caller_as_one_line(copied: Path, workers: int) -> None:
    data = TarDataset(copied / "train")
    path = copied / "train" / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[int(data.table["offset"][7]) + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train-000000\.tar: sample 7 is damaged") as error:
        list(eval_loader(data, rank=0, world=1, batch_size=50, workers=workers))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_nothing_from_the_global_generators(written: Path, workers: int) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    steps(TarDataset(written / "train"), step=4, workers=workers)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


def test_augmentation_is_keyed_by_sample_and_epoch() -> None:
    image = np.random.default_rng(0).integers(1, 256, (3, 12, 12), dtype=np.uint8)
    seen = {AUGMENT(image, epoch, i).tobytes() for epoch in range(10) for i in range(10)}
    assert len(seen) > 60
    assert np.array_equal(AUGMENT(image, 4, 7), AUGMENT(image, 4, 7))
    assert np.array_equal(Augment()(image, 0, 0), image)
    flipped = sum(np.array_equal(Augment(flip=0.5)(image, 0, i), image[:, :, ::-1]) for i in range(400))
    assert 150 < flipped < 250
    shifted = Augment(crop_padding=2)(image, 0, 1)
    assert any(
        np.array_equal(shifted, np.pad(image, ((0, 0), (2, 2), (2, 2)))[:, y : y + 12, x : x + 12])
        for y in range(5)
        for x in range(5)
    )
    blank = [(Augment(erasing=1.0)(image, 0, i) == 0).mean() for i in range(200)]
    assert min(blank) > 0.01 and max(blank) < 0.25


def test_mixing_pairs_neighbours_and_ignores_ranks() -> None:
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = soft_targets(torch.arange(12) % 10, 10, 0.1)
    options = {"mixup": 0.4, "cutmix": 1.0, "seed": 1, "epoch": 2, "step": 3}
    mixed, soft = mix(images, targets, position=0, **options)
    halves = [mix(images[p : p + 4], targets[p : p + 4], position=p, **options) for p in (0, 4, 8)]
    assert torch.equal(mixed, torch.cat([x for x, _ in halves]))
    assert torch.equal(soft, torch.cat([t for _, t in halves]))
    assert torch.allclose(soft.sum(1), torch.ones(12))
    assert not torch.equal(mixed, images)
    for i in range(12):  # a target mixes a sample's own class and its partner's, in one proportion
        own, partner = targets[i], targets[i ^ 1]
        weight = (soft[i] - partner)[i % 10] / (own - partner)[i % 10]
        assert -1e-6 <= weight <= 1 + 1e-6
        assert torch.allclose(soft[i], own * weight + partner * (1 - weight), atol=1e-6)
    pasted, cut_soft = mix(images, targets, position=0, **(options | {"mixup": 0.0}))
    for i in range(12):
        own_pixels = (pasted[i] == images[i]).float().mean()
        assert torch.all((pasted[i] == images[i]) | (pasted[i] == images[i ^ 1]))
        weight = (cut_soft[i] - targets[i ^ 1])[i % 10] / (targets[i] - targets[i ^ 1])[i % 10]
        assert weight == pytest.approx(float(own_pixels), abs=1e-5)
    with pytest.raises(DataError, match="pairs"):
        mix(images[:3], targets[:3], position=0, **options)


def test_to_device_normalises_each_channel() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    expected = (images.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    result = to_device(images, mean, std, torch.device("cpu"))
    assert result.dtype == torch.float32
    assert torch.allclose(result.double(), expected, atol=1e-6)
