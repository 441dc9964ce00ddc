"""CIFAR-10 and CIFAR-100, from their binary archives."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..samples import Pixels
from .arrays import ArrayDataset, Load
from .source import DATASETS

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _archive(archive: str, prefix: str, files: dict[str, list[str]], label_bytes: int) -> Load:
    """Reads the binary archive of CIFAR: records of label bytes, the last one the class, and 3 x 32 x 32 pixels."""

    def load(split: str, source: Path | None) -> tuple[Pixels, NDArray[np.int64]]:
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


CIFAR10 = DATASETS.register(
    ArrayDataset(
        "cifar10",
        (3, 32, 32),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        CLASSES,
        _archive(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
            1,
        ),
        counts=(50_000, 10_000),
    )
)
CIFAR100 = DATASETS.register(
    ArrayDataset(
        "cifar100",
        (3, 32, 32),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        tuple(f"{i:02d}" for i in range(100)),
        _archive("cifar-100-binary.tar.gz", "cifar-100-binary", {"train": ["train"], "test": ["test"]}, 2),
        counts=(50_000, 10_000),
    )
)
