"""Corrupted test sets, each kind at each severity as samples: CIFAR-10-C and ImageNet-C as published, or made here."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError
from ..raw.arrays import Arrays
from ..raw.folders import EXTENSIONS, Files
from ..raw.listing import listed
from ..raw.source import Source
from ..samples import Box, Pixels, Samples
from .corruptions import KINDS, OF_COLOURS, SEVERITIES, check, corrupt, corruption_rng, library
from .like import Like
from .pictures import crop, decode

AGAIN = "unpack its archive again"
OTHER = "name the set that was made from the run's test set"


class CorruptedSet(Protocol):
    """kinds: those that it has. cropped: whether its pictures were made after the centre crop of evaluation."""

    kinds: tuple[str, ...]
    cropped: bool

    def read(self, kind: str, severity: int) -> Samples:
        """Raises DataError for a kind or severity that it has not, and where it is not whole."""
        ...


def published(folder: Path, clean: Samples) -> CorruptedSet:
    """The set in `folder`, which holds KIND.npy files or KIND folders. clean: the test set whose classes, mean and
    std it has. Raises DataError where it is neither, not whole, or of other classes."""
    if any((folder / f"{name}.npy").exists() for name in ("labels", *KINDS)):
        return CifarC(folder, clean)
    if any((folder / kind).is_dir() for kind in KINDS):
        return ImageNetC(folder, clean)
    raise DataError(
        f"{folder} has neither files like {KINDS[0]}.npy nor folders like {KINDS[0]}; name the folder of CIFAR-10-C or "
        "CIFAR-100-C, or the one in which the archives of ImageNet-C were unpacked side by side"
    )


class CifarC:
    """CIFAR-10-C, CIFAR-100-C and what is laid out as they are: KIND.npy, uint8 `[5 n, H, W, 3]`, severity 1 first, and
    labels.npy, uint8 `[5 n]`."""

    cropped = False

    def __init__(self, folder: Path, clean: Samples) -> None:
        self.folder, self.clean = folder, clean
        labels = self._load("labels")
        if labels.ndim != 1 or not labels.size or labels.size % len(SEVERITIES):
            raise DataError(f"{folder / 'labels.npy'} is {list(labels.shape)}, not labels for 5 severities; {AGAIN}")
        self.labels = labels[: labels.size // len(SEVERITIES)].astype(np.int32)
        if (labels.reshape(len(SEVERITIES), -1) != self.labels).any():
            raise DataError(f"{folder / 'labels.npy'} has other labels for other severities; {AGAIN}")
        if (classes := int(self.labels.max()) + 1) != clean.classes:
            raise DataError(f"{folder / 'labels.npy'} has {classes} classes, the run {clean.classes}; {OTHER}")
        self.kinds = tuple(kind for kind in KINDS if (folder / f"{kind}.npy").exists())
        if not self.kinds:
            raise DataError(f"{folder} has no file like {KINDS[0]}.npy; {AGAIN}")
        self.images = {kind: self._load(kind) for kind in self.kinds}
        for kind, images in self.images.items():
            if images.ndim != 4 or images.shape[::3] != (labels.size, 3):
                raise DataError(f"{folder / kind}.npy is {list(images.shape)}, not [{labels.size}, H, W, 3]; {AGAIN}")

    def read(self, kind: str, severity: int) -> Samples:
        _check(self, self.folder, kind, severity)
        n = len(self.labels)
        images = self.images[kind][(severity - 1) * n : severity * n].transpose(0, 3, 1, 2)
        pictures = Arrays(tuple(self.clean.class_names), images, self.labels.astype(np.int64))
        _, channels, height, width = images.shape
        name = self.folder / f"{kind}.npy severity {severity}"
        own = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
        return _Stored(self.clean, name, pictures, self.labels, (channels, height, width), own)

    def _load(self, name: str) -> NDArray[np.uint8]:
        path = self.folder / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # never unpickles
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing; {AGAIN}") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not a whole npy file ({str(error).splitlines()[0]}); {AGAIN}") from error
        if array.dtype != np.uint8:
            raise DataError(f"{path} is {array.dtype}, not uint8; {AGAIN}")
        return array


class ImageNetC:
    """ImageNet-C: KIND/SEVERITY/CLASS/*.JPEG, 50 pictures a class and all of one size; classes as those of `clean`."""

    cropped = True
    A_CLASS = 50

    def __init__(self, folder: Path, clean: Samples) -> None:
        self.folder, self.clean = folder, clean
        self.kinds = tuple(kind for kind in KINDS if (folder / kind).is_dir())
        for place in (folder / kind / str(severity) for kind in self.kinds for severity in SEVERITIES):
            if not place.is_dir():
                raise DataError(f"{place} is missing; {AGAIN}")
            found = {path.name for path in place.iterdir() if path.is_dir()}
            if other := sorted(found ^ set(clean.class_names)):
                whose = "set" if other[0] in found else "run"
                raise DataError(
                    f"{place} has {len(found)} classes, the run {clean.classes}: {other[0]} is only in the {whose}; "
                    f"{AGAIN}, or {OTHER}"
                )

    def read(self, kind: str, severity: int) -> Samples:
        _check(self, self.folder, kind, severity)
        place = self.folder / kind / str(severity)
        names, labels = listed(place, self.clean.class_names, EXTENSIONS)
        counts = np.bincount(labels, minlength=self.clean.classes)
        for name, count in zip(self.clean.class_names, counts, strict=True):
            if count != self.A_CLASS:
                raise DataError(f"{place / name} has {count} pictures instead of {self.A_CLASS}; {AGAIN}")
        pictures = Files(place, tuple(self.clean.class_names), names, labels)
        channels, height, width = decode(pictures[0].content, 3).shape
        files = (
            place / self.clean.class_names[label] / os.fsdecode(name) for label, name in zip(labels, names, strict=True)
        )
        sizes = "".join(f"{file.name} {file.stat().st_size}\n" for file in files)
        own = f"{kind} {severity} {hashlib.sha256(sizes.encode(errors='surrogateescape')).hexdigest()}"
        return _Stored(self.clean, place, pictures, labels, (channels, height, width), own)


class Made:
    """Every kind that pictures of so many channels can have, made of the clean ones as they are seen; draws are keyed
    by (seed, kind, severity, sample)."""

    cropped = False

    def __init__(self, clean: Samples, seed: int) -> None:
        self.clean, self.seed = clean, seed
        self.kinds = tuple(kind for kind in KINDS if clean.shape[0] != 1 or kind not in OF_COLOURS)

    def read(self, kind: str, severity: int) -> Samples:
        check(kind, severity)
        return _Made(self.clean, kind, severity, self.seed)


class _Stored(Like):
    """Pictures of one size, as PNG or JPEG in `source`."""

    def __init__(
        self,
        clean: Samples,
        folder: Path,
        source: Source,
        labels: NDArray[np.int32],
        shape: tuple[int, int, int],
        own: str,
    ) -> None:
        if any(wanted not in (0, found) for wanted, found in zip(clean.shape, shape, strict=True)):
            raise DataError(f"{folder} has pictures {list(shape)}, the run {list(clean.shape)}; {OTHER}")
        super().__init__(clean, folder, labels, shape, own)
        self.source = source

    def size(self, i: int) -> tuple[int, int]:
        return self.shape[1:]

    def image(self, i: int) -> Pixels:
        return self._decoded(i, lambda content: decode(content, self.shape[0]))

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        return self._decoded(i, lambda content: crop(content, self.shape[0], box, size))

    def _decoded(self, i: int, how: Callable[[bytes], Pixels]) -> Pixels:
        sample = self.source[i]
        try:
            pixels = how(sample.content)
            with Image.open(io.BytesIO(sample.content)) as picture:  # the head of it
                if picture.size[::-1] != self.size(i):
                    height, width = self.size(i)
                    raise DataError(f"is {picture.height} x {picture.width}, the first one is {height} x {width}")
        except DataError as error:
            raise DataError(f"{sample.name or f'{self.folder}: sample {i}'} {error}; {AGAIN}") from error
        return pixels


class _Made(Like):
    def __init__(self, clean: Samples, kind: str, severity: int, seed: int) -> None:
        own = f"{kind} {severity}, seed {seed}, {library()}"
        super().__init__(clean, clean.folder, clean.labels, clean.shape, own)
        self.clean, self.corruption, self.severity, self.seed = clean, kind, severity, seed

    @property
    def shard_of(self) -> NDArray[np.int32]:
        return self.clean.shard_of

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """See `Samples`."""
        return self.clean.following(batches, windows)

    def size(self, i: int) -> tuple[int, int]:
        return self.clean.size(i)

    def image(self, i: int) -> Pixels:
        return self._corrupted(self.clean.image(i), i)

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        return self._corrupted(self.clean.crop(i, box, size), i)

    def _corrupted(self, image: Pixels, i: int) -> Pixels:
        return corrupt(
            image, self.corruption, self.severity, corruption_rng(self.seed, self.corruption, self.severity, i)
        )


def _check(of: CorruptedSet, folder: Path, kind: str, severity: int) -> None:
    check(kind, severity)
    if kind not in of.kinds:
        raise DataError(f"{folder} has no {kind}, only {', '.join(of.kinds)}")
