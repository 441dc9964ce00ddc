"""Loading photographs: CPU time an image from file to batch, for our shards and for what others use, and how near the
pixels are. Where FFCV is not installed (`make ffcv`), its rows are left out.

    python -m benchmarks.loader [--images 1920] [--rounds 4] [--workers 2]

Every loader decodes the same JPEGs in an order of its own, takes a random box of each to 224 x 224, flips half of them
and gives batches of 64. Counted is the user and system time of this process and its workers, which other work on the
machine disturbs less than a clock, their start and end included: the least of all rounds, in which the loaders take
turns. The floors are single steps of it, in this process and in the same rounds. What ours takes outside decoding and
resizing is told by the pass itself: its CPU time less that which its workers spend in these two.
"""

from __future__ import annotations

import argparse
import io
import mmap
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import simplejpeg
import torch
import webdataset
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader

from pipelines import order
from pipelines.loader import to_device, train_loader
from pipelines.raw import catalog
from pipelines.samples import Box, Samples
from pipelines.store import beton_writer, tar_writer, tars
from pipelines.store.beton import BetonDataset
from pipelines.store.tars import TarDataset
from pipelines.views.augment import Augment
from pipelines.views.boxes import View
from pipelines.views.pictures import crop, decode, resized
from pipelines.views.vision import torchvision

from . import machine, table

SIZE, BATCH = 224, 64
SHAPES = {
    "500 x 375": [(375, 500)],
    "many sizes": [(375, 500), (500, 375), (333, 500), (500, 333), (500, 500), (240, 320), (160, 200), (768, 1024)],
}
"""Height and width. Most of ImageNet's pictures have a longer side of 500, some are smaller, a few larger."""
BYTES = 0.5
"""A pixel: a file of 500 x 375 has 94 kB, as ImageNet's have."""
DIFFERENT = 320
"""Photographs; more are the same files again, by other names."""

Pixels = NDArray[np.uint8]


_SOURCES = cache(load_sample_images)


def photograph(number: int, height: int, width: int) -> bytes:
    """A JPEG of about BYTES a pixel: a part of one of scikit-learn's two photographs, with a camera's noise."""
    rng = np.random.default_rng(number)
    whole = Image.fromarray(_SOURCES().images[number % 2])
    shape = np.array([width, height]) * rng.uniform(0.7, 0.95) * min(whole.width / width, whole.height / height)
    left, top = rng.uniform(0, np.array(whole.size) - shape)
    part = whole.resize((width, height), Image.Resampling.LANCZOS, (left, top, left + shape[0], top + shape[1]))
    pixels = np.asarray(part) * rng.uniform(0.8, 1.1) + rng.normal(0, 2.5, (height, width, 3))
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    low, high, content = 0, 100, b""
    while high - low > 1:  # the best quality that is not too large
        buffer, quality = io.BytesIO(), (low + high) // 2
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= BYTES * height * width:
            low, content = quality, buffer.getvalue()
        else:
            high = quality
    return content


@dataclass(frozen=True)
class Photographs:
    """The same pictures as a folder of classes, as shards and, where FFCV is installed, as an FFCV file of pixels;
    workers: of every loader."""

    source: Path
    data: TarDataset
    copy: BetonDataset | None
    workers: int


def write(folder: Path, shapes: list[tuple[int, int]], images: int, workers: int) -> Photographs:
    source = folder / "source"
    for i in range(images):
        path = source / "train" / f"{i % 10}" / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i < DIFFERENT:
            path.write_bytes(photograph(i, *shapes[i // 2 % len(shapes)]))
        else:
            path.hardlink_to(source / "train" / f"{i % 10}" / f"{i % DIFFERENT:06d}.jpg")
    (source / "test").symlink_to("train")  # of which nothing is read
    per_shard = -(-images // max(4, workers))  # webdataset wants one or more for each worker
    written = tar_writer.write(
        catalog.get("folder"), "train", folder / "shards", source=source, samples_per_shard=per_shard
    )
    copied = find_spec("ffcv") is not None
    if copied:
        beton_writer.write(written)
    return Photographs(source, TarDataset(written), BetonDataset(written) if copied else None, workers)


def _transform(interpolation: str = "BILINEAR") -> Any:
    transforms = torchvision().transforms
    box = transforms.RandomResizedCrop(SIZE, interpolation=transforms.InterpolationMode[interpolation])
    return transforms.Compose([box, transforms.RandomHorizontalFlip(), transforms.ToTensor()])


def image_folder(photos: Photographs, interpolation: str = "BILINEAR") -> Iterator[Any]:
    """torchvision's ImageFolder as its examples use it."""
    data = torchvision().datasets.ImageFolder(photos.source / "train", _transform(interpolation))
    yield from DataLoader(data, BATCH, shuffle=True, num_workers=photos.workers)


def image_folder_bicubic(photos: Photographs) -> Iterator[Any]:
    return image_folder(photos, "BICUBIC")


def plain_webdataset(photos: Photographs) -> Iterator[Any]:
    """The same tars as webdataset's examples read them: Pillow, a buffer that shuffles."""
    paths = [str(path) for path in photos.data.paths]
    data = webdataset.WebDataset(paths, shardshuffle=len(paths)).shuffle(200).decode("pil")
    change = _transform()
    batches = data.to_tuple("jpg", "cls").map_tuple(change, int).batched(BATCH)
    yield from DataLoader(batches, batch_size=None, num_workers=photos.workers)


def ffcv_itself(photos: Photographs) -> Iterator[Any]:
    """FFCV's own loader as its examples use it, on the same file: by areas, bytes. Compiling is in the first round."""
    from ffcv.fields.decoders import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    assert photos.copy is not None
    path = str(photos.copy.path)
    if path not in _COMPILED:
        steps = [RandomResizedCropRGBImageDecoder((SIZE, SIZE)), RandomHorizontalFlip(), ToTensor()]
        pipelines = {"image": steps, "label": [IntDecoder(), ToTensor()]}
        options = {"num_workers": photos.workers, "order": OrderOption.RANDOM, "pipelines": pipelines}
        _COMPILED[path] = Loader(path, BATCH, **options)
    yield from _COMPILED[path]


_COMPILED: dict[str, Any] = {}


def ours(
    photos: Photographs,
    data: Samples | None = None,
    augment: Augment = Augment(flip=0.5),  # noqa: B008 - frozen
    finish: bool = True,
) -> Iterator[Any]:
    """As `tdformer train` reads them: bicubic, bytes, which become floats on the device. finish: whether they are
    erased here, as for a CPU, or where they are sent."""
    data = data or photos.data
    cursor = order.Cursor(0, 0, 0, BATCH, data.digest)
    view, share = View(SIZE), order.Share(BATCH)
    yield from train_loader(data, cursor, share, augment=augment, workers=photos.workers, view=view, finish=finish)


def ours_from_ffcv(photos: Photographs) -> Iterator[Any]:
    return ours(photos, photos.copy)


def recipe_of(data: Samples) -> Augment:
    """The augmentation of the published ImageNet recipe."""
    colours = {"mean": tuple(data.mean), "std": tuple(data.std)}
    return Augment(flip=0.5, rand_augment="rand-m9-mstd0.5-inc1", erasing=0.25, erasing_mode="pixel", **colours)


def ours_by_the_recipe(photos: Photographs) -> Iterator[Any]:
    return ours(photos, augment=recipe_of(photos.data))


def ours_as_floats(photos: Photographs) -> Iterator[Any]:
    """With the normalisation, where the device is this CPU."""
    for (batch,) in ours(photos):
        yield to_device(batch.images, photos.data.mean, photos.data.std, torch.device("cpu"))


LOADERS: dict[str, Callable[[Photographs], Iterable[Any]]] = {
    "torchvision ImageFolder, float32": image_folder,
    "the same, bicubic": image_folder_bicubic,
    "webdataset and Pillow, float32": plain_webdataset,
    "ffcv's own loader, pixels, uint8": ffcv_itself,
    "ours, shards, uint8": ours,
    "ours, shards, normalised float32": ours_as_floats,
    "ours, shards, RandAugment and erasing, uint8": ours_by_the_recipe,
    "ours, FFCV pixels, uint8": ours_from_ffcv,
}
"""Each passes over the photographs once, with its workers, and gives batches. The first is the base of the ratios."""
OF_FFCV = (ffcv_itself, ours_from_ffcv)
WANTED = 8 * 800
"""Images a second that the eight GPUs of a node are to take."""


OUTSIDE = "ours, shards, uint8, outside decoding and resizing"


def outside(photos: Photographs) -> float:
    """Seconds of CPU time that a pass of `ours` takes, less those in which a worker decodes and resizes."""
    spent = np.frombuffer(mmap.mmap(-1, 8 * 2**15), np.float64)  # by process, shared with the workers

    def timed(*given: Any) -> Pixels:
        begun = time.thread_time()
        try:
            return crop(*given)
        finally:
            spent[os.getpid() % len(spent)] += time.thread_time() - begun

    with patch.object(tars, "crop", timed):
        return _used(lambda: _passed(ours(photos))) - float(spent.sum())


def floors(photos: Photographs) -> dict[str, Callable[[], float]]:
    """Single steps, each over every photograph that differs."""
    chosen = range(min(DIFFERENT, len(photos.data)))
    read = [photos.data.read(i)[0] for i in chosen]
    boxes = [View(SIZE).random(*photos.data.size(i), 0, i) for i in chosen]
    decoded = [decode(x, 3).transpose(1, 2, 0) for x in read]
    times = len(photos.data) / len(read)

    def each(step: Callable[[int], Any]) -> Callable[[], float]:
        return lambda: times * _used(lambda: _passed(map(step, range(len(read)))))

    def at_once(step: Callable[[int], Any]) -> Callable[[], float]:
        again = max(1, round(times))

        def by_all() -> None:
            one = lambda: _passed(map(step, [*range(len(read))] * again))  # noqa: E731
            passes = [multiprocessing.get_context("fork").Process(target=one) for _ in range(photos.workers)]
            for process in passes:
                process.start()
            for process in passes:
                process.join()

        return lambda: times / again * _used(by_all) / photos.workers

    return {
        "Pillow decodes": each(lambda k: Image.open(io.BytesIO(read[k])).convert("RGB")),
        "simplejpeg decodes": each(lambda k: simplejpeg.decode_jpeg(read[k])),
        "torch brings the box to size": each(lambda k: resized(decoded[k], boxes[k], SIZE)),
        "both, as ours does": each(lambda k: crop(read[k], 3, boxes[k], SIZE)),
        "the same, by as many processes at once as there are workers": at_once(
            lambda k: crop(read[k], 3, boxes[k], SIZE)
        ),
    }


def _passed(batches: Iterable[Any]) -> None:
    for _ in batches:
        pass


def _used(step: Callable[[], None]) -> float:
    """Seconds of CPU time, user and system, of this process and of those that it has waited for."""
    begun = _seconds()
    step()
    return _seconds() - begun


def _seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def measure(photos: Photographs, rounds: int) -> dict[str, float]:
    """CPU milliseconds an image: the least of the rounds."""
    torchvision()  # its import is no part of a pass
    there = {name: f for name, f in LOADERS.items() if photos.copy is not None or f not in OF_FFCV}
    passes = {name: lambda f=f: _used(lambda: _passed(f(photos))) for name, f in there.items()}
    passes[OUTSIDE] = lambda: outside(photos)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in (passes | floors(photos)).items():
            found.setdefault(name, []).append(1000 * seconds() / len(photos.data))
    return {name: min(times) for name, times in found.items()}


def training_box(content: bytes, box: Box, interpolation: Image.Resampling) -> Pixels:
    """`[H, W, C]` as torchvision does it to a Pillow picture: all decoded, box cut out, resized."""
    top, left, height, width = box
    part = Image.open(io.BytesIO(content)).convert("RGB").crop((left, top, left + width, top + height))
    return np.asarray(part.resize((SIZE, SIZE), interpolation))


def centre_box(content: bytes) -> Pixels:
    """`[H, W, C]` as torchvision does it to a Pillow picture: all decoded, resized, centre cut out."""
    vision = torchvision().transforms.functional
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    seen = vision.resize(whole, int(SIZE / View(SIZE).crop_ratio), vision.InterpolationMode.BICUBIC)
    return np.asarray(vision.center_crop(seen, SIZE))


def compared(found: list[Pixels], expected: list[Pixels]) -> list[str]:
    """PSNR over all pixels, largest and mean difference."""
    differences = np.stack(found).astype(int) - np.stack(expected)
    psnr = 10 * np.log10(255**2 / max(1e-9, np.mean(differences**2.0)))
    return [f"{psnr:.1f}", str(np.abs(differences).max()), f"{differences.mean():+.4f}"]


def quality(photos: Photographs) -> list[list[str]]:
    """Rows of `compared`."""
    data, view = photos.data, View(SIZE)
    chosen = range(min(DIFFERENT, len(data)))
    read = [data.read(i)[0] for i in chosen]
    boxes = [view.random(*data.size(i), 0, i) for i in chosen]
    centres = [view.centre(*data.size(i)) for i in chosen]

    def ours(wanted: list[Box]) -> list[Pixels]:
        return [crop(x, 3, box, SIZE).transpose(1, 2, 0) for x, box in zip(read, wanted, strict=True)]

    def theirs(how: Image.Resampling) -> list[Pixels]:
        return [training_box(x, box, how) for x, box in zip(read, boxes, strict=True)]

    def copied(copy: BetonDataset) -> list[Pixels]:
        return [copy.crop(i, box, SIZE).transpose(1, 2, 0) for i, box in zip(chosen, boxes, strict=True)]

    bicubic = theirs(Image.Resampling.BICUBIC)
    return [
        ["ours, training, against Pillow bicubic", *compared(ours(boxes), bicubic)],
        *(
            [["ours, FFCV pixels, training, against the same", *compared(copied(photos.copy), bicubic)]]
            if photos.copy is not None
            else []
        ),
        [
            "ours, evaluation, against torchvision's Resize and CenterCrop",
            *compared(ours(centres), [*map(centre_box, read)]),
        ],
        ["Pillow bilinear against Pillow bicubic", *compared(theirs(Image.Resampling.BILINEAR), bicubic)],
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1920, help="rounded up to whole batches")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args(arguments)
    images = -(-asked.images // BATCH) * BATCH
    print(f"{machine()}; {images} images, {asked.rounds} rounds, {asked.workers} workers")
    for title, shapes in SHAPES.items():
        with tempfile.TemporaryDirectory() as name:
            photos = write(Path(name), shapes, images, asked.workers)
            found = measure(photos, asked.rounds)
            pixels = quality(photos)
            size = photos.data.table["size"].mean() / 1000
        base = next(iter(found.values()))
        rows = [
            [key, f"{ms:.2f}", f"{base / ms:.2f}", f"{1000 / ms:.0f}", f"{WANTED * ms / 1000:.1f}"]
            for key, ms in found.items()
        ]
        print(f"\n{title}, {size:.0f} kB on average\n")
        titles = ["", "CPU ms an image", "ratio", "images/s a core", f"cores for {WANTED:,} images/s"]
        print(table(titles, rows), end="\n\n")
        print(table(["", "PSNR, dB", "largest difference", "mean difference"], pixels))


if __name__ == "__main__":
    main(sys.argv[1:])
