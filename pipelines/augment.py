"""Augmentation whose draws are keyed by (seed, epoch, sample id): the same on any rank and in any worker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .order import keyed_rng


@dataclass(frozen=True)
class Augment:
    """crop_padding: pixels of zero padding before a random crop back to size; flip and erasing: probabilities.

    Erasing blanks a rectangle of 2 to 20 % of the picture.
    """

    crop_padding: int = 0
    flip: float = 0.0
    erasing: float = 0.0
    seed: int = 0

    def __call__(self, image: NDArray[np.uint8], epoch: int, sample_id: int) -> NDArray[np.uint8]:
        """uint8 `[C, H, W]` -> uint8 `[C, H, W]`."""
        if not (self.crop_padding or self.flip or self.erasing):
            return image
        draws = keyed_rng(self.seed, epoch, sample_id).random(8)
        _, height, width = image.shape
        if self.crop_padding:
            p = self.crop_padding
            top, left = (int(d * (2 * p + 1)) for d in draws[:2])
            padded = np.pad(image, ((0, 0), (p, p), (p, p)))
            image = padded[:, top : top + height, left : left + width]
        if draws[2] < self.flip:
            image = image[:, :, ::-1]
        if draws[3] < self.erasing:
            image = image.copy()
            area, ratio = height * width * (0.02 + 0.18 * draws[4]), 0.3 * (1 / 0.09) ** draws[5]
            h = min(height, max(1, round((area * ratio) ** 0.5)))
            w = min(width, max(1, round((area / ratio) ** 0.5)))
            top, left = int(draws[6] * (height - h + 1)), int(draws[7] * (width - w + 1))
            image[:, top : top + h, left : left + w] = 0
        return np.ascontiguousarray(image)
