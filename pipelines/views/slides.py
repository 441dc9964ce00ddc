"""Pillow's bicubic shears and shifts along one axis, to the bit, with less arithmetic.

Pillow weighs 4 x 4 pixels for each, whatever the transformation. Where lines only slide along themselves, the weights
across are 0, 1, 0, 0 exactly, so four pixels of the line are all. What is left is computed as Pillow does: in double,
in its order, clipped to 0..255 and cut off, so that it is equal and not near.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..samples import Pixels

_BLOCK = 32
"""Lines that are computed together, so that they stay in the processor's cache."""


def slid(pixels: Pixels, slope: float, shift: float, fill: tuple[int, ...]) -> Pixels | None:
    """uint8 `[L, K, C]`: pixel k of line l is seen at k + slope (l + 1/2) + shift; fill: where nothing is. None: by
    rounding, the pixels of a line would slide by unequal whole numbers."""
    lines, length, channels = pixels.shape
    place = np.arange(length) + 0.5 + slope * (np.arange(lines if slope else 1) + 0.5)[:, None] + shift
    outside = (place < 0) | (place >= length)
    place -= 0.5
    whole = np.floor(place)
    if (whole != whole[:, :1] + np.arange(length)).any():
        return None
    seen = np.flatnonzero(~outside.all(0))
    around = np.tile(np.array(fill, np.uint8), length)
    moved: Pixels = np.tile(around, (lines, 1)).reshape(pixels.shape)
    if not len(seen):
        return moved
    columns = slice(int(seen[0]), int(seen[-1]) + 1)
    count = columns.stop - columns.start
    weight = np.repeat((place - whole)[:, columns], channels, 1)
    near = _four(pixels, whole[:, columns.start].astype(int), count)
    found = np.empty((lines, count * channels), np.uint8)
    for top in range(0, lines, _BLOCK):
        rows = slice(top, top + _BLOCK)
        by = weight[rows] if slope else weight
        v1, v2, v3, v4 = (near[rows, k * channels : (k + count) * channels] for k in range(4))
        left, right = v1 - v2, v3 - v4
        both = left + right
        v = by * both
        np.subtract(both + left, v, out=v)
        v *= by
        v += v3 - v1
        v *= by
        v += v2
        np.maximum(v, 0, out=v)
        found[rows] = np.minimum(v, 255, out=v)
    if slope:
        np.copyto(found, around[: count * channels], where=np.repeat(outside[:, columns], channels, 1))
    moved[:, columns] = found.reshape(lines, count, channels)
    return moved


def _four(pixels: Pixels, first: NDArray[np.int64], count: int) -> NDArray[np.int16]:
    """int16 `[L, (count + 3) C]`: of each line the pixels from the one before `first`, `[L]` or `[1]`, on; beyond its
    ends there are those at them."""
    lines, length, channels = pixels.shape
    before, behind = max(0, 1 - int(first.min())), max(0, int(first.max()) + count + 2 - length)
    wide = np.empty((lines, before + length + behind, channels), np.int16)
    wide[:, before : before + length] = pixels
    wide[:, :before], wide[:, before + length :] = pixels[:, :1], pixels[:, -1:]
    flat, size = wide.reshape(lines, -1), (count + 3) * channels
    begins = ((first - 1 + before) * channels).tolist()
    if len(begins) == 1:
        return flat[:, begins[0] : begins[0] + size]
    near = np.empty((lines, size), np.int16)
    for line, begin in enumerate(begins):
        near[line] = flat[line, begin : begin + size]
    return near


@dataclass(frozen=True)
class Slide:
    """In place of timm's operation `how`, which gives Pillow an amount. across: columns slide instead of lines. shear:
    the amount is the slope; else of a shift, in pixels or, relative, times the side."""

    how: Callable[..., Image.Image]
    across: bool = False
    shear: bool = False
    relative: bool = False

    def __call__(self, picture: Image.Image, amount: float, **options: Any) -> Image.Image:
        moved = self._moved(picture, amount, **options)
        return self.how(picture, amount, **options) if moved is None else moved

    def _moved(self, picture: Image.Image, amount: float, fillcolor: Any, resample: Any) -> Image.Image | None:
        if picture.mode != "RGB" or resample != Image.Resampling.BICUBIC:
            return None
        pixels = np.asarray(_turned(picture) if self.across else picture)
        shift = amount * pixels.shape[1] if self.relative else amount
        moved = slid(pixels, amount, 0.0, fillcolor) if self.shear else slid(pixels, 0.0, shift, fillcolor)
        if moved is None:
            return None
        found = Image.fromarray(moved)
        return _turned(found) if self.across else found


def _turned(picture: Image.Image) -> Image.Image:
    """Lines become columns, by Pillow, which goes by blocks."""
    return picture.transpose(Image.Transpose.TRANSPOSE)


def faster(name: str, how: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    """timm's operation `how` of that name, or what gives its pixels in less time. Where a compiler may join a product
    and a sum, as outside x86-64, Pillow's last bits are its own: there nothing is replaced."""
    known = _SLIDES.get(name) if platform.machine() in ("x86_64", "AMD64") else None
    return how if known is None else Slide(how, **known)


_SLIDES = {
    "ShearX": {"shear": True},
    "ShearY": {"shear": True, "across": True},
    "TranslateX": {},
    "TranslateY": {"across": True},
    "TranslateXRel": {"relative": True},
    "TranslateYRel": {"relative": True, "across": True},
}
