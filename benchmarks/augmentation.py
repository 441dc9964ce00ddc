"""What the published ImageNet recipe takes of a core, part by part: decoding, each operation of RandAugment, erasing,
mixing; and the cores that feed eight GPUs.

    python -m benchmarks.augmentation [--images 640] [--rounds 5]

The photographs are those of benchmarks.loader, 500 x 375, in shards; one process reads batches of 64 at 224 x 224, so
one core's work with nothing beside it; for a CPU, and for a GPU, which erases by itself. A part's time is the process's
CPU time in it, without that of parts inside it. Operations are those that the recipe draws for these pictures, so a
part's share is what it has in training. Parts are timed in a pass of their own, which the clocks make longer; shown is
the round in which they took least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch

from benchmarks import machine, table
from benchmarks.loader import BATCH, SIZE, WANTED, Photographs, ours, recipe_of, write
from pipelines.store import tars
from pipelines.views import augment, erase, mix

P, R = ParamSpec("P"), TypeVar("R")
PASS = "read, checksum, keyed draws, batch put together"


class Spent:
    """CPU seconds and calls by part; a part's seconds are without those of parts inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside = 0.0

    def on(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        def call(*given: P.args, **named: P.kwargs) -> R:
            outer, self._inside = self._inside, 0.0
            begun = time.thread_time()
            try:
                return function(*given, **named)
            finally:
                taken = time.thread_time() - begun
                self.seconds[name] += taken - self._inside
                self.calls[name] += 1
                self._inside = outer + taken

        return call


@contextmanager
def watched(spent: Spent, recipe: augment.Augment) -> Iterator[None]:
    """The parts of reading told to `spent`."""
    with ExitStack() as stack:
        for owner, name, part in (
            (tars, "crop", "decode, box brought to size"),
            (augment, "_mirrored", "flip"),
            (augment.Augment, "_coloured", "RandAugment around its operations"),
            (erase.Erasing, "place", "erasing: its box"),
            (erase.Erasing, "write", "erasing: its pixels"),
            (erase.Place, "row", "erasing: told to the device"),
            (mix, "drawn", "mixing drawn, by the trainer"),
        ):
            stack.enter_context(patch.object(owner, name, spent.on(part, getattr(owner, name))))
        for operation in recipe._rand_augment(SIZE).ops:
            part = f"RandAugment: {operation.name}"
            stack.enter_context(patch.object(operation, "aug_fn", spent.on(part, operation.aug_fn)))
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


FOR = {"a CPU": True, "a GPU": False}
"""Whether workers erase."""


def measure(photos: Photographs, finish: bool) -> tuple[float, Spent]:
    """CPU seconds of a pass over the photographs, and its parts by a second one, which clocks make longer."""

    def all_of_them() -> None:
        for number, (batch,) in enumerate(ours(photos, augment=recipe, finish=finish)):
            mix.drawn(len(batch.ids), (SIZE, SIZE), mixup=0.8, cutmix=1.0, seed=0, epoch=0, step=number, position=0)

    spent, recipe, begun = Spent(), recipe_of(photos.data), time.thread_time()
    all_of_them()
    taken = time.thread_time() - begun
    with watched(spent, recipe):
        spent.on(PASS, all_of_them)()
    return taken, spent


def sent(photos: Photographs, finish: bool) -> int:
    """Bytes of a batch that go to a device: pictures, labels, and what was drawn for mixing and for its erasing."""
    (batch,) = next(ours(photos, augment=recipe_of(photos.data), finish=finish))
    mixing = mix.drawn(len(batch.ids), (SIZE, SIZE), mixup=0.8, cutmix=1.0, seed=0, epoch=0, step=0, position=0)
    return sum(one.nbytes for one in (batch.images, batch.labels, mixing, batch.drawn) if one is not None)


def rows(spent: Spent, images: int) -> list[list[str]]:
    """The most expensive first: CPU ms an image, share, calls of 100 images, ms a call."""
    whole = spent.seconds.total()
    return [
        [
            name,
            f"{1000 * seconds / images:.3f}",
            f"{seconds / whole:.1%}",
            f"{100 * spent.calls[name] / images:.0f}",
            f"{1000 * seconds / spent.calls[name]:.2f}",
        ]
        for name, seconds in spent.seconds.most_common()
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640, help="rounded up to whole batches")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(arguments)
    images = -(-asked.images // BATCH) * BATCH
    with tempfile.TemporaryDirectory() as name:
        photos = write(Path(name), [(375, 500)], images, 0)
        with one_thread():
            sizes = [sent(photos, finish) for finish in FOR.values()]
            found = [[measure(photos, finish) for finish in FOR.values()] for _ in range(asked.rounds)]
    print(f"{machine()}; {images} images, {asked.rounds} rounds, in turns, in one process of one thread")
    for kind, size, measured in zip(FOR, sizes, zip(*found, strict=True), strict=True):
        passes = [1000 * taken / images for taken, _ in measured]
        parts = min((spent for _, spent in measured), key=lambda spent: spent.seconds.total())
        rate = 1000 / min(passes)
        print(f"\nFor {kind}: CPU ms an image in each round: {', '.join(f'{one:.2f}' for one in passes)}")
        print(f"{rate:.0f} images/s a core; {WANTED / rate:.1f} cores for {WANTED:,} images/s")
        print(f"{size:,} bytes of a batch of {BATCH} to the device, {size / BATCH:,.0f} an image\n")
        print(table(["part", "CPU ms an image", "share", "calls of 100 images", "ms a call"], rows(parts, images)))


if __name__ == "__main__":
    main(sys.argv[1:])
