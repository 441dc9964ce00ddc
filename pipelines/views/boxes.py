"""Which box of a picture is seen: a random one in training, the centre in evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..draws import CROP
from ..samples import Array, Box, Samples


@dataclass(frozen=True)
class View:
    """What is seen of pictures that come in many sizes, at size x size pixels.

    scale and ratio: the ranges of a random box's share of the area and of width / height; crop_ratio: side of the
    centre box over the shorter side of the picture. Published: 0.875 up to size 224, 1 for 288 and 384.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_ratio: float = 0.875
    seed: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        return self.size, self.size

    def bytes(self, channels: int) -> int:
        """Of one sample."""
        return channels * self.size**2

    def see(self, data: Samples, i: int, epoch: int | None) -> Array:
        """Sample i's box of this epoch, or its centre, uint8 `[C, size, size]`."""
        height, width = data.size(i)
        box = self.centre(height, width) if epoch is None else self.random(height, width, epoch, i)
        return data.crop(i, box, self.size)

    def random(self, height: int, width: int, epoch: int, sample_id: int) -> Box:
        """Whole pixels, distributed as torchvision's RandomResizedCrop and keyed by (seed, epoch, sample id).

        Where ten tries give no box that fits, it is the largest in the middle whose ratio is allowed.
        """
        draws = CROP.rng(self.seed, epoch, sample_id).random(40)
        box = first_that_fits(draws, height, width, self.scale, self.ratio, (height, width))
        if box is None:
            shape = min(max(width / height, self.ratio[0]), self.ratio[1])
            h, w = min(height, round(width / shape)), min(width, round(height * shape))
            box = (height - h) // 2, (width - w) // 2, h, w
        return box

    def centre(self, height: int, width: int) -> Box:
        """What is left when the shorter side is brought to size / crop_ratio pixels and the centre is cropped, with
        torchvision's roundings."""
        shorter = math.floor(self.size / self.crop_ratio)
        rows, columns = (int(shorter * side / min(height, width)) for side in (height, width))
        top, left = round((rows - self.size) / 2), round((columns - self.size) / 2)
        y, x = height / rows, width / columns
        return top * y, left * x, self.size * y, self.size * x


def first_that_fits(
    draws: NDArray[np.float64],
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: tuple[int, int],
) -> tuple[int, int, int, int] | None:
    """The first box that fits, of those that each four draws give: area, width / height, top, left."""
    for area, shape, y, x in draws.reshape(-1, 4).tolist():
        pixels = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = ratio[0] * (ratio[1] / ratio[0]) ** shape
        h, w = round((pixels / aspect) ** 0.5), round((pixels * aspect) ** 0.5)
        if 0 < h <= largest[0] and 0 < w <= largest[1]:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    return None
