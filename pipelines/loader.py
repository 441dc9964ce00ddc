"""Batches for one rank: a training epoch from a cursor on, and an exact evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import order
from .samples import Augmentation, Samples, Seen
from .workers import Reading, Workers


@dataclass(frozen=True)
class Batch:
    """images uint8 `[B, C, H, W]`, or what another view sees, such as counts int16 `[B, T, 2, H, W]`; labels `[B]`,
    sample ids `[B]`; position of the first in its global batch.

    damaged: what could not be read and why, by id; `ids` has those that stand in. mixing: how its pairs are mixed, see
    `views.mix.drawn`; None: that is not drawn yet, or they are not. drawn: for the end of their augmentation, `[B, k]`,
    which is left to the device; see `samples.InTwo`. largest: of what a device makes of the images, where somebody has
    looked and all are integers from 0 to 255.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    position: int
    damaged: dict[int, str] = field(default_factory=dict)
    mixing: Tensor | None = None
    drawn: Tensor | None = None
    largest: int | None = None


def _batches(
    data: Samples, how: Reading, asked: Sequence[tuple[order.Ids, int]], workers: int | Workers
) -> Iterator[Batch]:
    pool = Workers(workers, data) if isinstance(workers, int) else workers
    wanted = [ids for ids, _ in asked]
    one = how.view.bytes(data.shape[0]) if how.view else math.prod(data.shape)
    try:
        pool.start(one * max(map(len, wanted), default=0))
        with data.following(wanted, how.windows) as reads, closing(pool.read(data, how, wanted)) as found:
            for number, (_, position) in enumerate(asked):
                reads(number)
                images, ids, damaged, drawn = next(found)
                reads(number + 1)
                labels = torch.from_numpy(data.labels[ids].astype(np.int64))
                left = None if drawn is None else torch.from_numpy(drawn)
                yield Batch(torch.from_numpy(images), labels, torch.from_numpy(ids), position, damaged, drawn=left)
    finally:
        if pool is not workers:
            pool.close()


def train_loader(
    data: Samples,
    cursor: order.Cursor,
    share: order.Share,
    *,
    augment: Augmentation | None = None,
    workers: int | Workers = 0,
    view: Seen | None = None,
    skip: bool = False,
    window: int | None = None,
    finish: bool = True,
) -> Iterator[list[Batch]]:
    """From the cursor to the end of its epoch: the micro-batches of each optimizer step. Reads nothing before it.

    view: what is seen of a sample; None: pictures as they are. skip: others stand in for damaged samples, and batches
    tell of them. window: shards shuffled together; None: all. workers: those that read, or how many are to be started
    for this epoch alone. finish: whether an augmentation in two is done to its end; else batches say what was drawn for
    that. Raises DataError for a damaged sample that is not skipped, or a batch that does not divide.
    """
    permuted = order.epoch_order(cursor, data.shard_of, window)
    size = cursor.global_batch
    asked = [
        (ids, position)
        for step in range(cursor.step, order.steps_per_epoch(len(data), size))
        for position, ids in share.of(order.global_batch(permuted, step, size))
    ]
    windows = order.windows(cursor.seed, cursor.epoch, order.shards_in(data.shard_of), window)
    seed, damaged = cursor.seed if skip else None, frozenset(cursor.damaged)
    how = Reading(view, augment, cursor.epoch, seed, damaged, windows, finish)
    batches = _batches(data, how, asked, workers)
    for _ in range(0, len(asked), share.accumulation):
        yield [next(batches) for _ in range(share.accumulation)]


NOT_COUNTED = -100
"""The label that torch's losses leave out."""


def eval_loader(
    data: Samples,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int | Workers = 0,
    view: Seen | None = None,
) -> Iterator[Batch]:
    """This rank's share of all samples, each on exactly one rank; the last batch may be smaller.

    Every rank gets equally many batches, because under ZeRO 3 a forward pass is one of all ranks together; where a
    rank's share ends before the others', its last batch is a sample with the label NOT_COUNTED.
    """
    ids = order.validation_share(len(data), rank, world)
    asked = [(ids[i : i + batch_size], i) for i in range(0, len(ids), batch_size)]
    largest = -(-len(data) // world)  # share
    counted = len(asked)
    if counted * batch_size < largest:
        asked.append((ids[:1] if counted else np.zeros(1, np.int64), 0))
    for number, batch in enumerate(_batches(data, Reading(view), asked, workers)):
        yield batch if number < counted else replace(batch, labels=torch.full_like(batch.labels, NOT_COUNTED))


def to_device(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format | None = None,
) -> Tensor:
    """uint8 `[B, ..., C, H, W]` -> normalised `dtype` on the device: a quarter of the bytes travel. Anything else, such
    as counts, as it is. layout: of pictures; None: on a GPU channels_last, as decoders give them, so that nothing is
    moved; else contiguous. Two operators then."""
    there = images.to(device, non_blocking=True)
    if there.dtype != torch.uint8:
        return there.to(dtype)
    if layout is None:
        layout = torch.channels_last if _last(there) and there.dim() == 4 else torch.contiguous_format
    scale, shift = _normal(tuple(mean), tuple(std), device)
    return (there.contiguous(memory_format=layout) * scale).sub_(shift).to(dtype)


@lru_cache
def _normal(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What a byte is multiplied by and what is taken away, `[C, 1, 1]`. Copied to a GPU once, because it is a wait."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.view(-1, 1, 1), shift.view(-1, 1, 1)


def _last(images: Tensor) -> bool:
    """Whether channels lie side by side in the memory of their device, as a GPU's kernels want them."""
    return images.device.type != "cpu"


def time_first(images: Tensor) -> Tensor:
    """Frames `[B, T, C, H, W]` as the model takes them, `[T, B, C, H, W]`, on a GPU in memory `[T, B, H, W, C]`;
    pictures `[B, C, H, W]` as they are."""
    if images.dim() != 5:
        return images
    frames = images.transpose(0, 1)
    return frames.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3) if _last(frames) else frames.contiguous()
