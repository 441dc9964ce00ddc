"""Pictures: what a file's bytes hold, whole or a box of it at another size."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .boxes import Box
from .errors import DataError

Pixels = NDArray[np.uint8]


def decode(content: bytes, channels: int) -> Pixels:
    """PNG or JPEG -> uint8 `[C, H, W]`, C 1 or 3. Raises DataError when it does not decode."""
    with _opened(content) as picture:
        return _array(picture.convert(_MODES[channels]))


def crop(content: bytes, channels: int, box: Box, size: int) -> Pixels:
    """A box of a PNG or JPEG at size x size, bicubic with antialiasing -> uint8 `[C, H, W]`, C 1 or 3.

    Raises DataError when it does not decode. A JPEG's box that is at least twice its new size is decoded at 1/2, 1/4
    or 1/8, which costs less.
    """
    top, left, height, width = box
    with _opened(content) as picture:
        whole = picture.size
        scale = min(height, width) / size
        if picture.format == "JPEG" and picture.mode in ("L", "RGB") and scale >= 2:
            picture.draft(picture.mode, (int(whole[0] / scale), int(whole[1] / scale)))
        x, y = picture.size[0] / whole[0], picture.size[1] / whole[1]
        right, bottom = min((left + width) * x, picture.size[0]), min((top + height) * y, picture.size[1])
        part = (left * x, top * y, right, bottom)  # a sum may be a rounding beyond the edge
        seen = picture.convert(_MODES[channels]).resize((size, size), Image.Resampling.BICUBIC, part)
        return _array(seen)


def resized(pixels: Pixels, box: Box, size: int) -> Pixels:
    """A box of uint8 `[H, W, C]`, at size x size, bicubic with antialiasing -> uint8 `[C, size, size]`. Of `pixels` no
    more is touched than the box and what its edges are made of."""
    top, left, height, width = box
    y, x = int(top), int(left)
    part = pixels[y : math.ceil(top + height), x : math.ceil(left + width)]
    picture = Image.fromarray(np.ascontiguousarray(part[..., 0] if part.shape[2] == 1 else part))
    inside = (left - x, top - y, min(left - x + width, part.shape[1]), min(top - y + height, part.shape[0]))
    return _array(picture.resize((size, size), Image.Resampling.BICUBIC, inside))


_MODES = {1: "L", 3: "RGB"}


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """A picture; whatever Pillow raises for damaged bytes (half a dozen kinds, struct.error among them) is one line."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            yield picture
    except Exception as error:
        raise DataError(f"does not decode as a picture ({type(error).__name__})") from error


def _array(picture: Image.Image) -> Pixels:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
