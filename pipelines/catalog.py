"""The data sets: classes, shapes, statistics, and where their raw samples come from."""

from __future__ import annotations

import difflib
import gzip
import io
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError

Images = NDArray[np.uint8]
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Dataset:
    """shape (C, H, W); mean and std of each channel of the training pictures, scaled to 0..1.

    load(split, source): all pictures `[n, C, H, W]` and labels `[n]`; source None is the usual place.
    """

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load: Callable[[str, Path | None], tuple[Images, NDArray[np.int64]]]
    splits: tuple[str, ...] = ("train", "test")

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def read(self, split: str, source: Path | None = None) -> Iterator[tuple[str, bytes, int]]:
        """(key, PNG bytes, label) of every sample, in the order of the source; PNG keeps every pixel."""
        if split not in self.splits:
            raise DataError(f"{self.name} has no split {split!r}; choose one of {', '.join(self.splits)}")
        images, labels = self.load(split, source)
        if len(images) != len(labels):
            raise DataError(f"{self.name} {split} has {len(images)} pictures but {len(labels)} labels; fix the source")
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield f"{i:08d}", encode_png(image), int(label)


def encode_png(image: Images) -> bytes:
    """uint8 `[C, H, W]`, C 1 or 3 -> PNG."""
    buffer = io.BytesIO()
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode(content: bytes, shape: tuple[int, int, int]) -> Images:
    """PNG or JPEG -> uint8 `[C, H, W]`. Raises DataError when it does not decode to `shape`."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("L" if shape[0] == 1 else "RGB"))
    except Exception as error:  # damaged bytes make Pillow raise half a dozen kinds, struct.error among them
        raise DataError(f"does not decode as a picture ({type(error).__name__})") from error
    image = pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)
    if image.shape != shape:
        raise DataError(f"decodes to {list(image.shape)} instead of {list(shape)}")
    return image


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

    pixels, labels = load_digits(return_X_y=True)
    test = np.zeros(len(labels), bool)
    test[np.argsort(labels, kind="stable")[::5]] = True  # 360 samples
    chosen = test if split == "test" else ~test
    images = (pixels.reshape(-1, 1, 8, 8) * 15).astype(np.uint8)
    return images[chosen], labels[chosen].astype(np.int64)


DATASETS = {
    "fashion_mnist": Dataset(
        "fashion_mnist",
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        (1, 28, 28),
        (0.28604,),
        (0.35302,),
        _fashion_mnist,
    ),
    "digits": Dataset("digits", tuple("0123456789"), (1, 8, 8), (0.28777,), (0.35409,), _digits),
}


def get(name: str) -> Dataset:
    """A data set by name. Raises DataError with the nearest name."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, 1) or list(DATASETS)
        raise DataError(f"data set {name!r} is unknown; did you mean {' or '.join(near)}?")
    return DATASETS[name]
