"""Fashion-MNIST, as Debian's package has it."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, NotHere
from ..samples import Pixels
from .arrays import ArrayDataset
from .source import DATASETS

FOLDER = Path("/usr/share/datasets/fashion-mnist")
MISSING = "is missing; install the Debian package dataset-fashion-mnist, or name its folder as the source"


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """One file of the MNIST family. Raises DataError when it is missing or not what its header says."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} {MISSING}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); install dataset-fashion-mnist again") from error
    header = 4 * (1 + dimensions)
    magic, *sizes = (int(size) for size in np.frombuffer(content[:header].ljust(header, b"\0"), ">u4"))
    if magic != 0x800 + dimensions or len(content) - header != math.prod(sizes):
        raise DataError(f"{path} is not a whole idx file; install dataset-fashion-mnist again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def load(split: str, source: Path | None) -> tuple[Pixels, NDArray[np.int64]]:
    if source is None and not FOLDER.exists():
        raise NotHere(f"{FOLDER} {MISSING}")
    folder, prefix = source or FOLDER, {"train": "train", "test": "t10k"}[split]
    images = _idx(folder / f"{prefix}-images-idx3-ubyte.gz", 3)
    labels = _idx(folder / f"{prefix}-labels-idx1-ubyte.gz", 1)
    return images[:, None], labels.astype(np.int64)


FASHION_MNIST = DATASETS.register(
    ArrayDataset(
        "fashion_mnist",
        (1, 28, 28),
        (0.28604,),
        (0.35302,),
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        load,
        counts=(60_000, 10_000),
        instead="digits",
    )
)
