"""Batches for one rank: a training epoch from a cursor on, and an exact evaluation."""

from __future__ import annotations

import math
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from . import order
from .errors import DamagedSample, DataError
from .samples import Array, Samples, Seen
from .stand_in import StandIns

Change = Callable[[Array, int], Array]
Augmentation = Callable[[Array, int, int], Array]
"""Of a sample, the epoch and the sample's id."""


@dataclass(frozen=True)
class Batch:
    """images uint8 `[B, C, H, W]` or frames of counts int16 `[B, T, 2, H, W]`, labels `[B]`, sample ids `[B]`; position
    of the first in its global batch.

    damaged: what could not be read and why, by id; `ids` has those that stand in.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    position: int
    damaged: dict[int, str] = field(default_factory=dict)


class _Worker:
    """What a worker does with a micro-batch of ids: read, decode, augment, stack. An error comes back as a value,
    because torch wraps what a worker raises in a traceback of several lines."""

    def __init__(
        self,
        data: Samples,
        view: Seen | None,
        change: Change | None,
        epoch: int | None = None,
        stand_ins: StandIns | None = None,
    ) -> None:
        self.data, self.view, self.change, self.epoch, self.stand_ins = data, view, change, epoch, stand_ins
        self._shared = _Turns()

    def image(self, i: int) -> Array:
        """The picture as it is, or what is seen of the sample in this epoch or in evaluation."""
        return self.data.image(i) if self.view is None else self.view.see(self.data, i, self.epoch)

    def sample(self, i: int, damaged: dict[int, str]) -> tuple[int, Array]:
        """Sample i, or the one that stands in for it; what cannot be read is added to `damaged`."""
        if self.stand_ins is None or self.epoch is None:
            return i, self.image(i)
        for other in self.stand_ins.of(self.epoch, i):
            try:
                return other, self.image(other)
            except DamagedSample as error:
                damaged[other] = str(error)
        raise DataError(f"neither sample {i} nor any of those drawn from its shard can be read; look at the disk")

    def __getitem__(self, asked: tuple[np.ndarray, int]) -> Batch | DataError:
        wanted, position = asked
        damaged: dict[int, str] = {}
        try:
            read = [self.sample(int(i), damaged) for i in wanted]
            ids, images = np.array([i for i, _ in read]), [image for _, image in read]
            if self.change is not None:
                images = [self.change(x, int(i)) for x, i in zip(images, ids, strict=True)]
        except DataError as error:
            return error
        labels = torch.from_numpy(self.data.labels[ids].astype(np.int64))
        return Batch(self._shared.stack(images), labels, torch.from_numpy(ids), position, damaged)


_AHEAD = 2  # batches that a worker is asked for before one is taken
_TURNS = _AHEAD + 2
_SEMAPHORES = 12  # of a worker's queues and its share in the loader's, at most; each has a page of the shared memory
_SHARED = Path("/dev/shm")


def check_shared_memory(data: Samples, view: Seen | None, batch: int, workers: int, loaders: int = 1) -> None:
    """Raises DataError where the batches of so many loaders do not fit into the shared memory that there is: Linux ends
    a worker that finds none, or the loader waits for ever.

    batch: samples in one. workers: of each loader.
    """
    if not workers or not _SHARED.is_dir():
        return
    one = batch * (view.bytes(data.shape[0]) if view else math.prod(data.shape))
    pages = -(-one // mmap.PAGESIZE) * mmap.PAGESIZE
    needed = loaders * workers * (_TURNS * pages + _SEMAPHORES * mmap.PAGESIZE)
    there = os.statvfs(_SHARED)
    free = there.f_bavail * there.f_frsize
    if there.f_blocks and needed > free:  # one without a limit has no blocks
        raise DataError(
            f"{_SHARED} has {free / 2**20:.2f} MiB free, and the batches of {loaders * workers} data workers need "
            f"{needed / 2**20:.2f} MiB; make it larger (--shm-size of a container, or mount -o remount,size=), or "
            "data.workers or train.micro_batch smaller"
        )


class _Turns:
    """A worker's batches lie in shared memory that is used again, because its new pages cost ten times the copy."""

    def __init__(self) -> None:
        self._turns: list[Tensor] = []

    def stack(self, images: list[Array]) -> Tensor:
        """`[B, ...]`; in a worker it lasts until _TURNS more were asked for; one is when a batch is taken,
        before it is copied."""
        if get_worker_info() is None:
            return torch.from_numpy(np.stack(images))
        batch = self._turns.pop(0) if len(self._turns) == _TURNS else None
        if batch is None or batch.shape != (len(images), *images[0].shape):
            batch = torch.from_numpy(np.stack(images)).share_memory_()
        else:
            np.stack(images, out=batch.numpy())
        self._turns.append(batch)
        return batch


STOPS = {signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}
"""What asks a run to stop. Slurm, a closed terminal and `kill -- -GROUP` send them to every process."""


@contextmanager
def _left_to_us() -> Iterator[None]:
    """Processes that are forked meanwhile begin with STOPS blocked: one that died of them would end the trainer with an
    error before it has saved."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heed_parent(_: int) -> None:
    """In a worker: of STOPS only a TERM of the process that started it counts, which is how that one ends it."""

    def wait() -> None:
        while True:
            told = signal.sigwaitinfo(STOPS)
            if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _batches(
    samples: _Worker, asked: Sequence[tuple[np.ndarray, int]], workers: int, windows: order.Ids | None = None
) -> Iterator[Batch]:
    largest = max((len(ids) for ids, _ in asked), default=0)
    check_shared_memory(samples.data, samples.view, largest, workers)
    loader: DataLoader[Batch | DataError] = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=None,
        sampler=asked,
        num_workers=workers,
        generator=torch.Generator(),  # or torch's global generator would be drawn from
        prefetch_factor=_AHEAD if workers else None,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_heed_parent,
    )
    try:
        with samples.data.following([ids for ids, _ in asked], windows) as reads:
            with _left_to_us():  # forked here, before a thread that fetches is started
                batches = iter(loader)
            for number in range(len(asked)):
                reads(number)
                batch = next(batches)
                if isinstance(batch, DataError):
                    raise batch
                reads(number + 1)
                # numpy copies on one thread; torch would keep all of them busy for it.
                yield replace(batch, images=torch.from_numpy(batch.images.numpy().copy("K"))) if workers else batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"a data worker died ({str(error).splitlines()[-1]}); free memory, or make data.workers smaller"
        ) from error


def train_loader(
    data: Samples,
    cursor: order.Cursor,
    *,
    rank: int,
    world: int,
    micro_batch: int,
    accumulation: int,
    augment: Augmentation | None,
    workers: int,
    view: Seen | None = None,
    skip: bool = False,
    window: int | None = None,
) -> Iterator[list[Batch]]:
    """From the cursor to the end of its epoch: the micro-batches of each optimizer step. Reads nothing before it.

    view: what is seen of a sample; None: pictures as they are. skip: others stand in for damaged samples, and batches
    tell of them. window: shards shuffled together; None: all. Raises DataError for a damaged sample that is not
    skipped, or a batch that does not divide.
    """
    permuted = order.epoch_order(cursor, data.shard_of, window)
    size = cursor.global_batch
    if micro_batch * accumulation * world != size:
        raise DataError(
            f"a global batch of {size} is not {world} ranks x {accumulation} micro-batches of {micro_batch}; "
            "choose sizes that multiply"
        )
    asked = [
        (ids, position)
        for step in range(cursor.step, order.steps_per_epoch(len(data), size))
        for position, ids in order.share(order.global_batch(permuted, step, size), rank, world, micro_batch)
    ]
    change = None if augment is None else lambda image, i: augment(image, cursor.epoch, i)
    stand_ins = StandIns(cursor.seed, data.shard_of, frozenset(cursor.damaged)) if skip else None
    windows = order.windows(cursor.seed, cursor.epoch, order.shards_in(data.shard_of), window)
    batches = _batches(_Worker(data, view, change, cursor.epoch, stand_ins), asked, workers, windows)
    for _ in range(0, len(asked), accumulation):
        yield [next(batches) for _ in range(accumulation)]


NOT_COUNTED = -100
"""The label that torch's losses leave out."""


def eval_loader(
    data: Samples,
    *,
    rank: int,
    world: int,
    batch_size: int,
    workers: int,
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
    for number, batch in enumerate(_batches(_Worker(data, view, None), asked, workers)):
        yield batch if number < counted else replace(batch, labels=torch.full_like(batch.labels, NOT_COUNTED))


def to_device(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """uint8 `[B, C, H, W]` -> normalised `dtype` `[B, C, H, W]` on the device: a quarter of the bytes travel. Counts,
    int16 `[B, T, 2, H, W]`, as they are."""
    if images.dtype == torch.int16:
        return images.to(device, non_blocking=True).to(dtype)
    scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(-1, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device).view(-1, 1, 1)
    return (images.to(device, non_blocking=True).contiguous().to(torch.float32) * scale - shift).to(dtype)


def time_first(images: Tensor) -> Tensor:
    """Frames `[B, T, C, H, W]` as the model takes them, `[T, B, C, H, W]`; pictures `[B, C, H, W]` as they are."""
    return images.transpose(0, 1).contiguous() if images.dim() == 5 else images
