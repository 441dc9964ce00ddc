"""Batches come one step ahead in their order, with their errors, and leave nothing behind."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from global_batches import same

from pipelines import order
from pipelines.delivery import Delivery, Stream
from pipelines.errors import DataError
from pipelines.loader import Batch, eval_loader, to_device, train_loader
from pipelines.samples import Samples
from pipelines.store.tars import TarDataset
from pipelines.views import mix
from pipelines.views.augment import Augment
from pipelines.workers import Workers, pinned

AUGMENT = Augment(crop_padding=1, flip=0.5, erasing=0.3, seed=5)


class Copies:
    """From memory to memory: what is sent is another tensor than what was read."""

    def __init__(self) -> None:
        self.sent = self.taken = 0
        self.alive: list[weakref.ref[torch.Tensor]] = []

    def send(self, batches: list[Batch]) -> list[Batch]:
        self.sent += 1
        there = [replace(batch, images=batch.images.clone(), labels=batch.labels.clone()) for batch in batches]
        self.alive.append(weakref.ref(there[0].images))
        return there

    def take(self, batches: list[Batch]) -> None:
        self.taken += 1

    def live(self) -> int:
        return sum(one() is not None for one in self.alive)


def source(
    data: Samples, workers: int | Workers, augment: Augment = AUGMENT, skip: bool = False
) -> Iterator[list[Batch]]:
    at = order.Cursor(5, 0, 0, 48, data.digest)
    return train_loader(data, at, order.Share(24, 2), augment=augment, workers=workers, skip=skip)


def flat(steps: list[list[Batch]]) -> list[Batch]:
    return [batch for batches in steps for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("asked", [lambda step: True, lambda step: step % 2 == 0, lambda step: False])
def test_the_order_is_the_loader_s_and_two_steps_are_there_at_most(
    data: TarDataset, workers: int, asked: Callable[[int], bool]
):
    lane, found = Copies(), []
    delivery = Delivery(source(data, workers), lane)
    for batches, waited in delivery:
        found.append([replace(batch, images=batch.images.clone()) for batch in batches])
        assert waited >= 0 and lane.taken == len(found) == lane.sent
        if asked(len(found)):
            for _ in range(2):
                delivery.send_next()
            assert lane.sent == min(len(found) + 1, 7)
        assert lane.live() <= 2
    assert same(flat(found), flat(list(source(data, 0)))) and len(found) == 7
    assert next(delivery, None) is None


def test_without_a_lane_nothing_is_read_ahead_or_copied(data: TarDataset):
    read = []

    def noted() -> Iterator[list[Batch]]:
        for batches in source(data, 0):
            read.append(batches[0].images)
            yield batches

    delivery = Delivery(noted(), None)
    for number, (batches, _) in enumerate(delivery, 1):
        delivery.send_next()
        assert len(read) == number and batches[0].images is read[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_that_of_its_step(copy: Path, workers: int):
    data = TarDataset(copy)
    permuted = order.permutation(5, 0, len(data))
    broken = int(permuted[3 * 48 + 5])
    tar = copy / data.paths[int(data.table["shard"][broken])].name
    content = bytearray(tar.read_bytes())
    content[int(data.table["offset"][broken]) + 9] ^= 0xFF
    tar.write_bytes(content)
    delivery, done = Delivery(source(data, workers), Copies()), 0
    with pytest.raises(DataError, match=f"sample {broken} is damaged"):
        for _ in delivery:
            delivery.send_next()
            done += 1
    assert done == 3


def test_what_is_left_in_the_middle_leaves_nothing_behind(data: TarDataset):
    """As a run that is stopped: a step is sent and will never be taken."""
    pool, lane = Workers(2, data), Copies()
    delivery = Delivery(source(data, pool), lane)
    next(delivery)
    delivery.send_next()
    assert pool.pids and lane.live() == 1
    del delivery
    assert not pool.pids and lane.live() == 0


def test_the_workers_are_free_when_the_last_step_computes(data: TarDataset):
    """An evaluation begins there."""
    pool = Workers(2, data)
    delivery = Delivery(source(data, pool), Copies(), lambda: pool.ready(2))
    steps = []
    for batches, _ in delivery:
        steps.append(batches)
        delivery.send_next()
        if len(steps) == 7:
            assert sum(len(batch.ids) for batch in eval_loader(data, batch_size=100, workers=pool)) == 360
    assert len(steps) == 7
    pool.close()


@dataclass(frozen=True)
class Held(Augment):
    """Reads one sample only when a file is there, or after half a minute."""

    file: str = ""
    sample: int = -1

    def __call__(self, image: np.ndarray, epoch: int, sample_id: int) -> np.ndarray:
        end = time.monotonic() + 30
        while sample_id == self.sample and not os.path.exists(self.file) and time.monotonic() < end:
            time.sleep(0.01)
        return image


def test_what_is_not_read_yet_is_not_waited_for(data: TarDataset, tmp_path: Path):
    second = int(order.permutation(5, 0, len(data))[48 + 30])  # in the second micro-batch of step 1
    augment = Held(file=str(tmp_path / "go"), sample=second)
    pool, lane = Workers(2, data), Copies()
    delivery = Delivery(source(data, pool, augment), lane, lambda: pool.ready(2))
    next(delivery)
    delivery.send_next()
    assert lane.sent == 1 and not pool.ready(2)
    (tmp_path / "go").touch()
    while not pool.ready(2):
        time.sleep(0.01)
    delivery.send_next()
    assert lane.sent == 2
    found, _ = next(delivery)
    assert second in found[1].ids
    del delivery


def test_batches_lie_where_they_are_asked_to(data: TarDataset):
    """A GPU's are pinned; here the same way into memory that is kept."""
    for workers in (0, 2):
        places: list[np.ndarray] = []

        def place(size: int, places: list[np.ndarray] = places) -> np.ndarray:
            places.append(np.empty(size, np.uint8))
            return places[-1]

        pool = Workers(workers, data, place=place)
        batches = flat(list(source(data, pool)))
        assert len(places) == len(batches) == 14
        assert all(np.shares_memory(batch.images, one) for batch, one in zip(batches, places, strict=True))
        assert same(batches, flat(list(source(data, 0))))
        pool.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_the_cpu_s_bits(data: TarDataset, workers: int):
    """While it computes, so late copies or memory that is used again too early would show."""
    gpu, mean, std = torch.device("cuda"), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    size = 64 if os.environ.get("EMULATED_GPUS") else 4096
    lane, pool, busy = Stream(gpu), Workers(workers, data, place=pinned), torch.randn(size, size, device=gpu)
    delivery, found = Delivery(source(data, pool), lane, lambda: pool.ready(2)), []

    def entered(batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        images = to_device(batch.images.expand(-1, 3, -1, -1), mean, std, device)
        targets = mix.soft_targets(batch.labels.to(device), 10, 0.1)
        key = {"mixup": 0.8, "cutmix": 1.0, "seed": 0, "epoch": 0, "step": 0, "position": batch.position}
        return mix.mix(images, targets, **key)

    for batches, _ in delivery:
        for _ in range(5):
            busy = busy @ busy / 64
        for batch in batches:
            assert batch.images.is_cuda and batch.labels.is_cuda
            images, targets = entered(batch, gpu)
            assert images.is_contiguous(memory_format=torch.channels_last)
            found.append((images, targets))
        delivery.send_next()
    expected = [entered(batch, torch.device("cpu")) for batch in flat(list(source(data, 0)))]
    assert len(found) == len(expected) == 14
    for (images, targets), (own, theirs) in zip(found, expected, strict=True):
        assert torch.equal(images.cpu(), own) and torch.equal(targets.cpu(), theirs)
    pool.close()
