"""The data sets: classes, shapes, statistics, and where their raw samples come from."""

from __future__ import annotations

import difflib
import gzip
import io
import math
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..classes import mapping
from ..errors import DataError
from ..order import permutation
from . import event_sets as eventsets
from . import recordings
from .event_sets import Part
from .listing import Skipped, class_folders, listed
from .recordings import Events
from .split import held_back

Images = NDArray[np.uint8]
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation that the field uses for ImageNet, and for any folder of photographs."""

EXTENSIONS = {
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".png": "png",
    ".bmp": "bmp",
    ".pgm": "pgm",
    ".ppm": "ppm",
    ".tif": "tif",
    ".tiff": "tif",
    ".webp": "webp",
}
"""The suffixes of pictures, those of torchvision's ImageFolder, and what they are called in a shard."""
DVS128 = (2, recordings.SIDE, recordings.SIDE)
COUNTS = (0.0, 0.0), (1.0, 1.0)
"""Mean and standard deviation where values are counts, which are taken as they are."""


@dataclass(frozen=True)
class Sample:
    """One picture as its file's bytes, or encoded Events; extension: png, jpg or npz; name: where it comes from."""

    key: str
    content: bytes
    extension: str
    label: int
    name: str = ""


class Source(Protocol):
    """One split where its raw files are: samples by number, in a fixed order. It may also have class_titles, the
    names of the classes in words, and skipped, what lies there and is not read."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample: ...

    def mark(self, i: int) -> str:
        """Changes when sample i does; cheaper than reading it."""
        ...


@dataclass(frozen=True)
class Dataset(ABC):
    """shape (C, H, W), H and W 0 where every picture has its own; mean and std of each channel, scaled to 0..1. Events
    have C 2, OFF and ON, the sensor's H and W, and as counts mean 0 and std 1."""

    name: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    splits: tuple[str, ...] = field(default=("train", "test"), kw_only=True)

    @abstractmethod
    def _open(self, split: str, source: Path | None) -> Source: ...

    def open(self, split: str, source: Path | None = None) -> Source:
        """A split at `source`; None is the usual place. Raises DataError for a split or files that are not there."""
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; choose one of {', '.join(self.splits)}")
        with _readable(source):
            return self._open(split, source)


@dataclass(frozen=True)
class ArrayDataset(Dataset):
    """A data set that is read whole; load(split, source): all pictures `[n, C, H, W]` and labels `[n]`."""

    class_names: tuple[str, ...]
    load: Callable[[str, Path | None], tuple[Images, NDArray[np.int64]]]

    def _open(self, split: str, source: Path | None) -> Source:
        images, labels = self.load(split, source)
        if len(images) != len(labels):
            raise DataError(f"{self.name} {split} has {len(images)} pictures but {len(labels)} labels; fix the source")
        return Arrays(self.class_names, images, labels)


@dataclass(frozen=True)
class Arrays:
    """Pictures `[n, C, H, W]` in memory, or in a file as it is read, as PNG."""

    class_names: tuple[str, ...]
    images: Images
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Sample:
        return Sample(f"{i:08d}", encode_png(self.images[i]), "png", int(self.labels[i]))

    def mark(self, i: int) -> str:
        return f"{self.labels[i]} {zlib.crc32(self.images[i].tobytes())}"


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """SOURCE/train and SOURCE/val (or validation, or test), each with a folder of files, pictures, for each class.

    val_share: SOURCE, or SOURCE/train, is not split, and so much of it is held back to test on; see split.py.
    """

    suffixes: tuple[str, ...] = field(default=tuple(EXTENSIONS), kw_only=True)
    val_share: float | None = field(default=None, kw_only=True)

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None:
            raise DataError(f"{self.name} is read from a folder of yours; give it with --source (data.source)")
        if self.val_share is not None:
            return self._opened(self._divided(split, source, self.val_share))
        folders = split_folders(source)
        missing = next((k for k, v in folders.items() if v is None), None)
        if missing is not None:
            raise DataError(
                f"{source} has no folder {' or '.join(_SPLITS[missing])} with a folder for each class; --val-share 0.1 "
                "holds back a tenth of one that is not split"
            )
        train, folder = folders["train"], folders[split]
        assert train is not None and folder is not None
        skipped = Skipped()
        classes = class_folders(train)
        class_folders(folder, skipped)  # what lies beside them
        for other in (place for place in folders.values() if place):
            mapping(classes, class_folders(other), str(train), str(other))
        names, labels = self._listed(train, folder, classes, skipped)
        for other in (source / name for name in _SPLITS[split] if source / name != folder and (source / name).is_dir()):
            skipped.add(f"folders, because {folder.name} comes first", other)
        order = mixed(len(names))
        return self._opened(Files(folder, classes, names[order], labels[order], skipped))

    def _listed(
        self, train: Path, folder: Path, classes: tuple[str, ...], skipped: Skipped
    ) -> tuple[NDArray[np.bytes_], NDArray[np.int32]]:
        """The files of each class of `train` in `folder`. Raises DataError where one has none."""
        odd = next((name for name in classes if not _is_text(name)), None)
        if odd is not None:
            raise DataError(f"{train / odd} is a class whose name is not UTF-8; rename it")
        names, labels = listed(folder, classes, self.suffixes, skipped)
        counts = np.bincount(labels, minlength=len(classes))
        if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
            why = Skipped()
            listed(folder, empty, self.suffixes, why)
            places = ", ".join(str(folder / name) for name in empty)
            raise DataError(f"{places}: nothing to read ({why or 'no files'}); fill it, or remove the folder")
        return names, labels

    def _divided(self, split: str, source: Path, share: float) -> Files:
        """Of a folder that is not split: what is held back, or the rest. Raises DataError where nothing is, or all of a
        class."""
        folders = split_folders(source)
        if (there := folders["test"]) is not None:
            raise DataError(f"{source} is split already, {there.name} is to test on; leave --val-share out")
        folder, skipped = folders["train"] or source, Skipped()
        classes = class_folders(folder, skipped)
        if not classes:
            raise DataError(f"{folder} has no folders, one for each class; put the files of each class into one")
        names, labels = self._listed(folder, folder, classes, skipped)
        held = [held_back(name, names[labels == i], share) for i, name in enumerate(classes)]
        if whole := [str(folder / name) for name, of in zip(classes, held, strict=True) if of.all()]:
            raise DataError(f"{', '.join(whole)}: all of it would be held back; a smaller --val-share than {share:g}")
        if not any(of.any() for of in held):
            raise DataError(
                f"{folder}: none of its {len(names)} files is held back; a larger --val-share than {share:g}"
            )
        for name in (name for name, of in zip(classes, held, strict=True) if split == "test" and not of.any()):
            skipped.add("classes of which nothing is held back", folder / name)
        taken = np.concatenate(held) == (split == "test")
        order = mixed(int(taken.sum()))
        return Files(folder, classes, names[taken][order], labels[taken][order], skipped)

    def _opened(self, files: Files) -> Source:
        return files


@dataclass(frozen=True)
class ImageNet(FolderDataset):
    """ILSVRC 2012: its archives in SOURCE, as downloaded, or folders as FolderDataset has them."""

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None or all(split_folders(source).values()):
            return super()._open(split, source)
        from .imagenet import read_archives  # which needs this module

        return read_archives(split, source)


_SPLITS = {"train": ("train",), "test": ("val", "validation", "test")}
"""The folders that a split may be in. `val` comes first, because where there is a `test` too it is held back, and often
has no labels."""
_MIXED = 0x73686172


def split_folders(source: Path) -> dict[str, Path | None]:
    """The folder of each split, None where there is none."""
    return {k: next((source / n for n in v if (source / n).is_dir()), None) for k, v in _SPLITS.items()}


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


def mixed(n: int) -> NDArray[np.int64]:
    """A fixed order of n samples: neighbours in a folder or archive are of one class, and readers that read a shard
    from its beginning want them mixed."""
    return permutation(_MIXED, 0, n)


@dataclass(frozen=True)
class Files:
    """FOLDER/CLASS/NAME, as `listed`; NAME may have folders in it."""

    folder: Path
    class_names: tuple[str, ...]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    skipped: Skipped = field(default_factory=Skipped)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        path = self.path(i)
        with _readable(path):
            return Sample(
                f"{i:08d}", path.read_bytes(), EXTENSIONS[path.suffix.lower()], int(self.labels[i]), str(path)
            )

    def mark(self, i: int) -> str:
        path = self.path(i)
        return _mark(path, int(self.labels[i]))

    def path(self, i: int) -> Path:
        return self.folder / self.class_names[self.labels[i]] / os.fsdecode(self.names[i])


def _mark(path: Path, label: int) -> str:
    try:
        facts = path.stat()
    except OSError as error:  # whoever reads it says so
        return f"{path} {label} {error.errno}"
    return f"{path} {label} {facts.st_size} {facts.st_mtime_ns}"


@dataclass(frozen=True)
class EventDataset(Dataset):
    """A data set of recordings; listing(split, source): the parts that are its samples."""

    class_names: tuple[str, ...]
    listing: Callable[[str, Path], list[Part]]

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None:
            raise DataError(
                f"{self.name} is read from its unpacked archive; give its folder with --source (data.source)"
            )
        return _Recordings(self.class_names, self.listing(split, source))


@dataclass(frozen=True)
class EventFolder(FolderDataset):
    """As FolderDataset, of .aedat and .npz recordings."""

    def _opened(self, files: Files) -> Source:
        parts = [Part(files.path(i), int(files.labels[i])) for i in range(len(files))]
        return _Recordings(files.class_names, parts, files.skipped)


@dataclass
class _Recordings:
    class_names: tuple[str, ...]
    parts: list[Part]
    skipped: Skipped = field(default_factory=Skipped)
    _last: tuple[Path, Events] | None = None  # the recording read last: its parts are neighbours

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> Sample:
        part = self.parts[i]
        if self._last is None or self._last[0] != part.path:
            self._last = None  # two need not be in memory at once
            self._last = part.path, recordings.read(part.path)
        events = self._last[1]
        if part.start is not None and part.end is not None:
            events = events.between(part.start, part.end)
            if not len(events):
                raise DataError(f"{part} has no events, though its labels name a gesture there; {recordings.AGAIN}")
        return Sample(f"{i:08d}", recordings.encode(events), "npz", part.label, str(part))

    def mark(self, i: int) -> str:
        part = self.parts[i]
        return f"{part} {_mark(part.path, part.label)}"


@contextmanager
def _readable(place: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or place} cannot be read ({error.strerror}); fix the source") from error


def encode_png(image: Images) -> bytes:
    """uint8 `[C, H, W]`, C 1 or 3 -> PNG."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One file of the MNIST family. Raises DataError when it is missing or not what its header says."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing; install the Debian package dataset-fashion-mnist, or name its folder as the source"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); install dataset-fashion-mnist again") from error
    header = 4 * (1 + dimensions)
    magic, *sizes = (int(size) for size in np.frombuffer(content[:header].ljust(header, b"\0"), ">u4"))
    if magic != 0x800 + dimensions or len(content) - header != math.prod(sizes):
        raise DataError(f"{path} is not a whole idx file; install dataset-fashion-mnist again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def _fashion_mnist(split: str, source: Path | None) -> tuple[Images, NDArray[np.int64]]:
    folder, prefix = source or FASHION_MNIST_FOLDER, {"train": "train", "test": "t10k"}[split]
    images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
    return images[:, None], labels.astype(np.int64)


def _digits(split: str, source: Path | None) -> tuple[Images, NDArray[np.int64]]:
    """scikit-learn's 1,797 digits, values 0..16 stretched to 0..240; every fifth of each class is a test sample."""
    from sklearn.datasets import load_digits

    if source is not None:
        raise DataError("the digits come with scikit-learn; leave --source (data.source) out")
    pixels, labels = load_digits(return_X_y=True)
    test = np.zeros(len(labels), bool)
    test[np.argsort(labels, kind="stable")[::5]] = True  # 360 samples
    chosen = test if split == "test" else ~test
    images = (pixels.reshape(-1, 1, 8, 8) * 15).astype(np.uint8)
    return images[chosen], labels[chosen].astype(np.int64)


def _cifar(archive: str, prefix: str, files: dict[str, list[str]], label_bytes: int) -> Callable[..., Any]:
    """Reads the binary archive of CIFAR: records of label bytes, the last one the class, and 3 x 32 x 32 pixels."""

    def load(split: str, source: Path | None) -> tuple[Images, NDArray[np.int64]]:
        path = (source or Path(".")) / archive
        try:
            with tarfile.open(path) as tar:
                contents = [member.read() for n in files[split] if (member := tar.extractfile(f"{prefix}/{n}.bin"))]
        except FileNotFoundError as error:
            raise DataError(
                f"{path} is missing; give its folder as the source (the binary version, no pickles)"
            ) from error
        except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); download it again") from error
        content, size = b"".join(contents), label_bytes + 3072
        if not content or len(content) % size:
            raise DataError(f"{path} holds {len(content)} bytes of {split} records of {size}; download it again")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, label_bytes:].reshape(-1, 3, 32, 32), records[:, label_bytes - 1].astype(np.int64)

    return load


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DATASETS: dict[str, Dataset] = {
    "fashion_mnist": ArrayDataset(
        "fashion_mnist",
        (1, 28, 28),
        (0.28604,),
        (0.35302,),
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        _fashion_mnist,
    ),
    "digits": ArrayDataset("digits", (1, 8, 8), (0.28777,), (0.35409,), tuple("0123456789"), _digits),
    "cifar10": ArrayDataset(
        "cifar10",
        (3, 32, 32),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        CIFAR10,
        _cifar(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
            1,
        ),
    ),
    "cifar100": ArrayDataset(
        "cifar100",
        (3, 32, 32),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        tuple(f"{i:02d}" for i in range(100)),
        _cifar("cifar-100-binary.tar.gz", "cifar-100-binary", {"train": ["train"], "test": ["test"]}, 2),
    ),
    "imagenet": ImageNet("imagenet", (3, 0, 0), *IMAGENET_STATISTICS),
    "folder": FolderDataset("folder", (3, 0, 0), *IMAGENET_STATISTICS),
    "cifar10_dvs": EventDataset("cifar10_dvs", DVS128, *COUNTS, eventsets.CIFAR10_DVS_CLASSES, eventsets.cifar10_dvs),
    "dvs128_gesture": EventDataset(
        "dvs128_gesture", DVS128, *COUNTS, recordings.DVS128_GESTURE_CLASSES, eventsets.dvs128_gesture
    ),
    "events": EventFolder("events", (2, 0, 0), *COUNTS, suffixes=(".aedat", ".npz")),
}


def get(name: str) -> Dataset:
    """A data set by name. Raises DataError with the nearest name."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1) or list(DATASETS)
        raise DataError(f"data set {name!r} is unknown; did you mean {' or '.join(near)}?")
    return DATASETS[name]
