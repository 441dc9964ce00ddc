"""Which samples of a folder without a split are held back to test on."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
from numpy.typing import NDArray


def held_back(class_name: str, names: NDArray[np.bytes_], share: float) -> NDArray[np.bool_]:
    """Whether each file `CLASS/NAME` is held back, for a `share` of 0 to 1.

    A function of the two names alone: the same on any machine and in any order; a file that is added or removed moves
    no other, and a larger share holds back what a smaller one did. So a class has its share up to chance: of n files,
    n share, give or take the root of n share (1 - share).
    """
    return np.array([_place(class_name, name) < share for name in names], bool)


def _place(class_name: str, name: bytes) -> float:
    """A number from 0 to 1. Systems write an accented letter in one sign or in two; here they are the same."""
    text = f"{class_name}/{name.decode('utf-8', 'surrogateescape')}"
    digest = hashlib.sha256(unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
