"""Pictures: what a file's bytes hold, whole or a box of it at another size."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import DataError
from .order import keyed_rng

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""top, left, height, width in pixels of the picture; parts of a pixel count."""

_CROP = 0x63726F70  # keeps these draws apart from those of augmentation, which has a key of the same length


@dataclass(frozen=True)
class View:
    """What is seen of pictures that come in many sizes: a random box in training, the centre in evaluation.

    size (H, W) in pixels; scale and ratio: the ranges of a random box's share of the area and of width / height, as in
    torchvision's RandomResizedCrop; crop_ratio: side of the centre box over the shorter side of the picture.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_ratio: float = 0.875
    seed: int = 0

    def random(self, height: int, width: int, epoch: int, sample_id: int) -> Box:
        """The box of a training sample in an epoch: whole pixels, keyed by (seed, epoch, sample id)."""
        draws = keyed_rng(_CROP, self.seed, epoch, sample_id).random((10, 4))
        low, high = np.log(self.ratio)
        for area, ratio, y, x in draws:
            pixels = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
            shape = np.exp(low + (high - low) * ratio)
            h, w = round((pixels / shape) ** 0.5), round((pixels * shape) ** 0.5)
            if 0 < h <= height and 0 < w <= width:
                return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
        # None fits: the largest one in the middle.
        shape = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, round(width / shape)), min(width, round(height * shape))
        return (height - h) // 2, (width - w) // 2, h, w

    def centre(self, height: int, width: int) -> Box:
        """The box of evaluation: of the shape of `size`."""
        scale = min(height / self.size[0], width / self.size[1]) * self.crop_ratio
        h, w = self.size[0] * scale, self.size[1] * scale
        return (height - h) / 2, (width - w) / 2, h, w


def decode(content: bytes, channels: int) -> Pixels:
    """PNG or JPEG -> uint8 `[C, H, W]`, C 1 or 3. Raises DataError when it does not decode."""
    with _opened(content) as picture:
        return _array(picture.convert(_MODES[channels]))


def crop(content: bytes, channels: int, box: Box, size: tuple[int, int]) -> Pixels:
    """A box of a PNG or JPEG at another size, bilinear with antialiasing -> uint8 `[C, H, W]`, C 1 or 3.

    Raises DataError when it does not decode. A JPEG's box that is at least twice its new size is decoded at 1/2, 1/4
    or 1/8, which costs less.
    """
    top, left, height, width = box
    with _opened(content) as picture:
        whole = picture.size
        scale = min(height / size[0], width / size[1])
        if picture.format == "JPEG" and picture.mode in ("L", "RGB") and scale >= 2:
            picture.draft(picture.mode, (int(whole[0] / scale), int(whole[1] / scale)))
        x, y = picture.size[0] / whole[0], picture.size[1] / whole[1]
        part = (left * x, top * y, (left + width) * x, (top + height) * y)
        seen = picture.convert(_MODES[channels]).resize((size[1], size[0]), Image.Resampling.BILINEAR, part)
        return _array(seen)


def dimensions(content: bytes) -> tuple[int, int]:
    """Height and width, from the header."""
    with _opened(content) as picture:
        return picture.size[1], picture.size[0]


_MODES = {1: "L", 3: "RGB"}


class _opened:
    """A picture; whatever Pillow raises for damaged bytes (half a dozen kinds, struct.error among them) is one line."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __enter__(self) -> Image.Image:
        try:
            self.picture = Image.open(io.BytesIO(self.content), formats=("PNG", "JPEG"))
        except Exception as error:
            raise DataError(f"does not decode as a picture ({type(error).__name__})") from error
        return self.picture

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        self.picture.close()
        if isinstance(error, Exception):
            raise DataError(f"does not decode as a picture ({type(error).__name__})") from error


def _array(picture: Image.Image) -> Pixels:
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
