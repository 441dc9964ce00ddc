from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from global_batches import global_batches, same
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import Operators

from pipelines import order
from pipelines.errors import DataError
from pipelines.loader import NOT_COUNTED, Batch, eval_loader, time_first, to_device, train_loader
from pipelines.samples import Samples
from pipelines.store.tars import TarDataset
from pipelines.views.augment import Augment

AUGMENT = Augment(crop_padding=1, flip=0.5, erasing=0.3, seed=5)


def cursor(data: Samples, step: int = 0, size: int = 48, epoch: int = 0) -> order.Cursor:
    return order.Cursor(5, epoch, step, size, data.digest)


def steps(data: Samples, at: order.Cursor, world: int = 1, accumulation: int = 1, workers: int = 0) -> list[Batch]:
    return global_batches(data, at, world, accumulation, augment=AUGMENT, workers=workers)


def test_an_epoch_is_the_permutation_with_its_pictures_augmented(data: TarDataset):
    batches = steps(data, cursor(data, epoch=2))
    ids = torch.cat([batch.ids for batch in batches])
    assert np.array_equal(ids, order.permutation(5, 2, len(data))[: 7 * 48])
    for batch in batches:
        assert (batch.images.dtype, batch.labels.dtype, batch.ids.dtype) == (torch.uint8, torch.int64, torch.int64)
        for image, label, i in zip(batch.images, batch.labels, batch.ids, strict=True):
            assert np.array_equal(image, AUGMENT(data.image(int(i)), 2, int(i)))
            assert label == data.labels[int(i)]


@pytest.mark.parametrize(
    ("world", "accumulation", "workers"), [(2, 1, 0), (3, 2, 0), (1, 8, 0), (1, 1, 1), (1, 2, 2), (2, 2, 2)]
)
def test_ranks_micro_batches_and_workers_change_no_bit(data: TarDataset, world: int, accumulation: int, workers: int):
    assert same(steps(data, cursor(data), world, accumulation, workers), steps(data, cursor(data)))


@pytest.fixture(scope="session")
def readers(written: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Samples]:
    """The same samples as shards and as an FFCV file of pixels."""
    pytest.importorskip("ffcv", reason="ffcv is not installed (make ffcv)")
    from pipelines.store import beton_writer as beton
    from pipelines.store.beton import BetonDataset

    folder = Path(shutil.copytree(written, tmp_path_factory.mktemp("readers") / "test"))
    beton.write(folder)
    return [TarDataset(folder), BetonDataset(folder)]


@settings(max_examples=12)
@given(starts=st.data(), size=st.sampled_from([12, 48, 60]), seed=st.integers(0, 3))
def test_any_sequence_of_starts_gives_the_global_batches_of_one(
    readers: list[Samples], starts: st.DataObject, size: int, seed: int
):
    """Each start has its own reader, ranks, accumulation and workers, and ends after any number of steps."""
    tars = readers[0]
    at = order.Cursor(seed, 0, 0, size, tars.digest)
    whole = [batch for epoch in (0, 1) for batch in steps(tars, replace(at, epoch=epoch))]
    done: list[Batch] = []
    while at.epoch < 2:
        world = starts.draw(st.sampled_from([1, 2, 3, 4, 6]), "ranks")
        accumulation = starts.draw(st.sampled_from([k for k in (1, 2) if size % (world * k) == 0]), "accumulation")
        workers = starts.draw(st.sampled_from([0, 0, 0, 1, 2]), "workers")
        reader = starts.draw(st.sampled_from(readers), "reader")
        last = starts.draw(st.integers(1, len(whole)), "steps")
        for batch in steps(reader, at, world, accumulation, workers)[:last]:
            done.append(batch)
            at = at.advance(len(tars))
    assert same(done, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_rest_on_another_number_of_ranks(data: TarDataset, workers: int):
    assert same(steps(data, cursor(data, step=4), world=4, workers=workers), steps(data, cursor(data))[4:])


def test_resuming_reads_nothing_of_earlier_steps(copy: Path):
    data = TarDataset(copy)
    permuted = order.permutation(5, 0, len(data))
    content = bytearray((copy / "test-000000.tar").read_bytes())
    early = next(int(i) for i in permuted[: 2 * 48] if i < 100)
    content[int(data.table["offset"][early]) + 9] ^= 0xFF
    (copy / "test-000000.tar").write_bytes(content)
    assert len(steps(data, cursor(data, step=2))) == 5
    with pytest.raises(DataError, match=f"sample {early} is damaged"):
        steps(data, cursor(data))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_one_line_from_any_worker(copy: Path, workers: int):
    data = TarDataset(copy)
    (copy / "test-000002.tar").write_bytes(bytes((copy / "test-000002.tar").stat().st_size))
    with pytest.raises(DataError, match=r"test-000002.tar: sample 2\d\d is damaged .*; write the shards") as error:
        steps(data, cursor(data), workers=workers)
    assert "\n" not in str(error.value)


class Killer(Augment):
    def __call__(self, image: np.ndarray, epoch: int, sample_id: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return image


def test_a_worker_that_is_killed_is_one_line(data: TarDataset):
    loader = train_loader(data, cursor(data), order.Share(48), augment=Killer(), workers=1)
    with pytest.raises(DataError, match="a data worker died .*; free memory, or make data.workers smaller") as error:
        next(loader)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_generator_is_not_drawn_from(data: TarDataset, workers: int):
    before = torch.get_rng_state()
    steps(data, cursor(data), workers=workers)
    list(eval_loader(data, rank=0, world=1, batch_size=50, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


class First(TarDataset):
    """The first `count` samples."""

    count = 0

    def __len__(self) -> int:
        return self.count or super().__len__()


@pytest.mark.parametrize("workers", [0, 2])
@settings(max_examples=25)
@given(drawn=st.data())
def test_evaluation_sees_every_sample_once_in_equally_many_batches_of_each_rank(
    written: Path, workers: int, drawn: st.DataObject
):
    """Also with more ranks than samples; what fills up a rank's batches is not counted."""
    data = First(written)
    count = drawn.draw(st.integers(1, 40), "samples")
    world, batch_size = drawn.draw(st.integers(1, 9), "ranks"), drawn.draw(st.integers(1, 12), "batch")
    if workers:  # processes are slow to start
        count, world, batch_size = 9, min(world, 3), max(batch_size, 4)
    data.count = count
    ranks = [
        list(eval_loader(data, rank=rank, world=world, batch_size=batch_size, workers=workers)) for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for batches in ranks for batch in batches]
    counts = [batch for batch in batches if not (batch.labels == NOT_COUNTED).all()]
    ids = torch.cat([batch.ids for batch in counts])
    assert np.array_equal(ids.sort().values, np.arange(count))
    assert np.array_equal(torch.cat([batch.labels for batch in counts]), data.labels[ids.numpy()])
    for batch in batches:  # those of a worker lie in memory that it uses again
        assert np.array_equal(batch.images[-1], data.image(int(batch.ids[-1])))


@pytest.mark.parametrize(("size", "world", "micro", "accumulation"), [(48, 5, 9, 1), (48, 2, 24, 2), (48, 1, 20, 2)])
def test_batches_that_do_not_multiply_are_refused(data, size: int, world: int, micro: int, accumulation: int):
    loader = train_loader(
        data,
        cursor(data, size=size),
        order.Share(micro, accumulation, world=world),
    )
    with pytest.raises(DataError, match=f"a global batch of {size} is not {world} ranks x {accumulation} micro-batch"):
        next(loader)


def test_pixels_are_normalised_on_the_device():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    expected = (images.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    out = to_device(images, mean, std, torch.device("cpu"))
    assert out.dtype == torch.float32
    assert torch.allclose(out.double(), expected, atol=1e-5)
    half = to_device(images, mean, std, torch.device("cpu"), torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, out.bfloat16())


@pytest.mark.parametrize("last", [False, True])
def test_a_gpu_s_layout_has_the_same_bits_by_two_operators(last: bool):
    """What a decoder gave, or other pictures, which are bytes when they are moved."""
    cpu, mean, std = torch.device("cpu"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    scale = torch.tensor([1 / (255 * s) for s in std]).view(3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)]).view(3, 1, 1)
    expected = images.contiguous().to(torch.float32) * scale - shift
    assert torch.equal(to_device(images, mean, std, cpu), expected)
    with Operators() as called:
        laid = to_device(images, mean, std, cpu, layout=torch.channels_last)
    assert torch.equal(laid, expected) and laid.is_contiguous(memory_format=torch.channels_last)
    assert called.names == ["clone"] * (not last) + ["mul", "sub_"]


def test_a_gpu_s_layout_is_chosen_by_the_device():
    """Shown on meta, which has shapes and strides alone."""
    images, meta = torch.randint(0, 256, (4, 3, 6, 5), dtype=torch.uint8), torch.device("meta")
    assert to_device(images, (0.5,) * 3, (0.5,) * 3, meta).is_contiguous(memory_format=torch.channels_last)
    frames = time_first(to_device(torch.zeros(3, 4, 2, 6, 5, dtype=torch.int16), (), (), meta))
    assert frames.shape == (4, 3, 2, 6, 5) and frames.permute(0, 1, 3, 4, 2).is_contiguous()
    assert time_first(torch.zeros(3, 4, 2, 6, 5)).is_contiguous()
