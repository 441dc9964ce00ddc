"""The digits that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..samples import Pixels
from .arrays import ArrayDataset
from .source import DATASETS


def load(split: str, source: Path | None) -> tuple[Pixels, NDArray[np.int64]]:
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


DIGITS = DATASETS.register(
    ArrayDataset("digits", (1, 8, 8), (0.28777,), (0.35409,), tuple("0123456789"), load, counts=(1_437, 360))
)
