"""Random erasing: which box of a picture, drawn with its other draws, and what is written there: at once, or of a whole
batch by the device that it was sent to. The bytes are the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..draws import resumed, where
from ..errors import DataError
from ..samples import Pixels
from .boxes import first_that_fits

MODES = ("black", "const", "pixel")
NOTHING = np.zeros(7, np.int64)


class Place(NamedTuple):
    """What is erased of a picture: a box in pixels. rng: its next draws are the noise, in the order [C, h, w]."""

    top: int
    left: int
    height: int
    width: int
    rng: np.random.Generator

    def row(self, noise: bool) -> NDArray[np.int64]:
        """The box and, where it is filled with noise, the generator: the two words of Philox's key, and how many
        numbers of 64 bits it has drawn; `[7]`."""
        if not noise:
            return np.array([*self[:4], 0, 0, 0])
        return np.array([*self[:4], *where(self.rng)])


@dataclass(frozen=True)
class Erasing:
    """mode: see `Augment`. mean, std: of each channel of the data, scaled to 0..1.

    Raises DataError for another mode."""

    mode: str = "black"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DataError(f"erasing_mode is {self.mode!r}; choose one of {', '.join(MODES)}")

    @property
    def noise(self) -> bool:
        return self.mode == "pixel"

    @cached_property
    def colour(self) -> Pixels:
        """Of each channel, where there is no noise, `[C, 1, 1]`; black is that of any number of them, `[1, 1, 1]`."""
        mean = np.array(self.mean if self.mode == "const" else (0.0,))
        colour: Pixels = np.clip(np.rint(mean[:, None, None] * 255), 0, 255).astype(np.uint8)
        return colour

    def place(self, height: int, width: int, draws: list[float], rng: np.random.Generator) -> Place | None:
        """A box of a picture by four draws from 0 to 1; of timm's modes by as many more as it takes, and None where ten
        times four give none that is smaller than the picture."""
        if self.mode == "black":
            return Place(*_blank(height, width, *draws), rng)
        largest = height - 1, width - 1
        box = first_that_fits(rng.random(40), height, width, (0.02, 1 / 3), (0.3, 1 / 0.3), largest)
        return None if box is None else Place(*box, rng)

    def write(self, image: Pixels, place: Place) -> None:
        """Erase it in uint8 `[C, H, W]`."""
        top, left, height, width, rng = place
        box = image[:, top : top + height, left : left + width]
        box[...] = self._drawn(box.shape, rng) if self.noise else self.colour

    def _drawn(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        """Noise with the data's mean and deviation, rounded to what a byte holds."""
        noise = rng.standard_normal(shape)
        mean, std = (np.array(x)[:, None, None] for x in (self.mean, self.std))
        noise *= std
        noise += mean
        noise *= 255
        np.rint(noise, out=noise)
        return np.clip(noise, 0, 255, out=noise)

    def write_all(self, images: Tensor, rows: Tensor) -> None:
        """Erase in uint8 `[B, C, H, W]` on a CPU what `Place.row` says of each, int64 `[B, 7]`; height 0: nothing."""
        for image, row in zip(images.numpy(), rows.tolist(), strict=True):
            top, left, height, width, *generator = row
            if height:
                self.write(image, Place(top, left, height, width, resumed(*generator)))


def _blank(height: int, width: int, size: float, shape: float, down: float, right: float) -> tuple[int, int, int, int]:
    """A box of 2 to 20 % of the area and a ratio of 0.3 to 1 / 0.3, each by a draw from 0 to 1, as its place is."""
    area, ratio = height * width * (0.02 + 0.18 * size), 0.3 * (1 / 0.09) ** shape
    h = min(height, max(1, round((area * ratio) ** 0.5)))
    w = min(width, max(1, round((area / ratio) ** 0.5)))
    return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
