"""Batches for one rank: a training epoch from a cursor on, and an exact evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from . import order
from .augment import Augment
from .boxes import View
from .errors import DataError
from .samples import Pixels, Samples

Change = Callable[[Pixels, int], Pixels]


@dataclass(frozen=True)
class Batch:
    """images uint8 `[B, C, H, W]`, labels `[B]`, sample ids `[B]`; position of the first in its global batch."""

    images: Tensor
    labels: Tensor
    ids: Tensor
    position: int


class _Worker:
    """What a worker does with a micro-batch of ids: read, decode, augment, stack. An error comes back as a value,
    because torch wraps what a worker raises in a traceback of several lines."""

    def __init__(self, data: Samples, view: View | None, change: Change | None, epoch: int | None = None) -> None:
        self.data, self.view, self.change, self.epoch = data, view, change, epoch

    def image(self, i: int) -> Pixels:
        """The picture as it is, or its box: of this epoch, or the centre in evaluation."""
        if self.view is None:
            return self.data.image(i)
        size = self.data.size(i)
        box = self.view.centre(*size) if self.epoch is None else self.view.random(*size, self.epoch, i)
        return self.data.crop(i, box, self.view.size)

    def __getitem__(self, asked: tuple[np.ndarray, int]) -> Batch | DataError:
        ids, position = asked
        try:
            images = [self.image(int(i)) for i in ids]
            if self.change is not None:
                images = [self.change(x, int(i)) for x, i in zip(images, ids, strict=True)]
        except DataError as error:
            return error
        labels = torch.from_numpy(self.data.labels[ids].astype(np.int64))
        return Batch(torch.from_numpy(np.stack(images)), labels, torch.from_numpy(ids), position)


def _batches(
    samples: _Worker, asked: Sequence[tuple[np.ndarray, int]], workers: int, windows: order.Ids | None = None
) -> Iterator[Batch]:
    loader: DataLoader[Batch | DataError] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=None,
        sampler=asked,
        num_workers=workers,
        generator=torch.Generator(),  # or torch's global generator would be drawn from
        multiprocessing_context="fork" if workers else None,
    )
    try:
        with samples.data.following([ids for ids, _ in asked], windows) as reads:
            batches = iter(loader)  # the workers are forked here, before a thread that fetches is started
            for number in range(len(asked)):
                reads(number)
                batch = next(batches)
                if isinstance(batch, DataError):
                    raise batch
                reads(number + 1)
                yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data worker died ({str(error).splitlines()[0]}); free memory, or make data.workers smaller"
        ) from error


def train_loader(
    data: Samples,
    cursor: order.Cursor,
    *,
    rank: int,
    world: int,
    micro_batch: int,
    accumulation: int,
    augment: Augment | None,
    workers: int,
    view: View | None = None,
    window: int | None = None,
) -> Iterator[list[Batch]]:
    """From the cursor to the end of its epoch: the micro-batches of each optimizer step. Reads nothing before it.

    view: the boxes of pictures that come in many sizes; None: pictures as they are. window: shards shuffled
    together; None: all. Raises DataError for a damaged
    sample or a batch that does not divide.
    """
    permuted = order.epoch_order(cursor, data.shard_of, window)
    size = cursor.global_batch
    if micro_batch * accumulation * world != size:
        raise DataError(
            f"a global batch of {size} is not {world} ranks x {accumulation} micro-batches of {micro_batch}; "
            "choose sizes that multiply"
        )
    first = rank * (size // world)
    asked = [
        (ids, first + m * micro_batch)
        for step in range(cursor.step, order.steps_per_epoch(len(data), size))
        for m, ids in enumerate(
            order.micro_batches(order.share(order.global_batch(permuted, step, size), rank, world), micro_batch)
        )
    ]
    change = None if augment is None else lambda image, i: augment(image, cursor.epoch, i)
    windows = order.windows(cursor.seed, cursor.epoch, order.shards_in(data.shard_of), window)
    batches = _batches(_Worker(data, view, change, cursor.epoch), asked, workers, windows)
    for _ in range(0, len(asked), accumulation):
        yield [next(batches) for _ in range(accumulation)]


def eval_loader(
    data: Samples,
    *,
    rank: int,
    world: int,
    batch_size: int,
    workers: int,
    view: View | None = None,
    change: Change | None = None,
) -> Iterator[Batch]:
    """This rank's share of all samples, each on exactly one rank; the last batch may be smaller. change: of each
    picture `[C, H, W]` and its id, before they are stacked."""
    ids = order.validation_share(len(data), rank, world)
    asked = [(ids[i : i + batch_size], i) for i in range(0, len(ids), batch_size)]
    return _batches(_Worker(data, view, change), asked, workers)


def to_device(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """uint8 `[B, C, H, W]` -> normalised `dtype` `[B, C, H, W]` on the device: a quarter of the bytes travel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)
    return (images.to(device, non_blocking=True).to(torch.float32) * scale - shift).to(dtype)
