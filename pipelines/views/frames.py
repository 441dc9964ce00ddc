"""Events counted into frames, and the augmentation of those frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..draws import AUGMENT
from ..errors import DamagedSample, DataError
from ..events import Events, decode
from ..samples import Encoded, Samples

Frames = NDArray[np.int16]


def integrate(events: Events, time_steps: int, by: str = "count", size: tuple[int, int] | None = None) -> Frames:
    """Events counted in T steps, int16 `[T, 2, H, W]`; channel 0 counts OFF (p = 0), channel 1 ON. None gets lost.

    by "count": equal numbers of events a step, differing by at most one; by "time": equal parts of the time from the
    first event to the last. (spikingjelly puts the whole remainder into the last step.) size (H, W): a grid no larger
    than the sensor, whose cells sum their pixels. Raises DataError for no events, another `by` or size, or a count
    that int16 cannot hold.
    """
    height, width = size or (events.height, events.width)
    if not len(events):
        raise DataError("no events to integrate; check how the recording was cut")
    if time_steps < 1 or by not in ("count", "time"):
        raise DataError(f"cannot integrate into {time_steps} steps by {by!r}; choose at least 1, by count or time")
    if not (0 < height <= events.height and 0 < width <= events.width):
        raise DataError(
            f"{height} x {width} is no size for events of {events.height} x {events.width} pixels; choose one up to it"
        )
    if by == "count":
        step = np.arange(len(events)) * time_steps // len(events)
    else:
        elapsed = events.t - events.t[0]
        step = elapsed * time_steps // (elapsed[-1] + 1)  # + 1 microsecond: the last event is in the last step
    row = events.y.astype(np.int64) * height // events.height
    column = events.x.astype(np.int64) * width // events.width
    cell = ((step * 2 + events.p) * height + row) * width + column
    counts = np.bincount(cell, minlength=time_steps * 2 * height * width)
    if counts.max() > np.iinfo(np.int16).max:
        raise DataError(f"a frame counts {counts.max()} events at one pixel, int16 holds 32767; take more time steps")
    return counts.astype(np.int16).reshape(time_steps, 2, height, width)


@dataclass(frozen=True)
class FrameView:
    """Events seen as frames: see `integrate`. grid (H, W)."""

    time_steps: int
    by: str
    grid: tuple[int, int]

    def bytes(self, channels: int) -> int:
        """Of one sample."""
        return np.dtype(np.int16).itemsize * self.time_steps * channels * self.grid[0] * self.grid[1]

    def see(self, data: Samples, i: int, epoch: int | None) -> Frames:
        """Sample i, int16 `[T, 2, H, W]`: the same in every epoch. Raises DataError, naming it."""
        if not isinstance(data, Encoded):
            raise DataError(f"{data.folder} is not read as events; set data.format=webdataset")
        events = data.decoded(i, decode)
        try:
            return integrate(events, self.time_steps, self.by, self.grid)
        except DataError as error:
            raise DamagedSample(f"{data.folder}: sample {i}: {error}") from error


OPERATIONS = ("identity", "shear", "translate_x", "translate_y", "rotate", "cutout")


@dataclass(frozen=True)
class EventAugment:
    """A horizontal flip, then one of `operations`, each as likely; the same at all time steps. Mixup is elsewhere.

    The operations and magnitudes are SNNAugmentWide's, of the Spikformer and QKFormer recipes for both data sets at
    128 x 128. NDA (Li et al., ECCV 2022) differs at 48 x 48: it rolls by up to 5 pixels instead of shifting, and
    shears by up to 30 degrees. What moves in from outside is empty, and nearest neighbours keep counts whole.
    """

    flip: float = 0.5  # probability; a flip makes a left-hand gesture a right-hand one, and the recipes flip those too
    shear: float = 0.3  # radians, to either side
    translate: int = 5  # pixels, along one axis
    rotate: float = 30.0  # degrees, to either side
    cutout: float = 0.11  # largest share of the area of the square that is blanked; the smallest is 0.001
    seed: int = 0
    operations: tuple[str, ...] = OPERATIONS

    def __call__(self, frames: Frames, epoch: int, sample_id: int) -> Frames:
        """`[T, 2, H, W]` -> `[T, 2, H, W]`."""
        flipped, which, much, down, right = AUGMENT.rng(self.seed, epoch, sample_id).random(5)
        if flipped < self.flip:
            frames = frames[..., ::-1]
        operation, signed = self.operations[int(which * len(self.operations))], 2 * much - 1
        shift = int(much * (2 * self.translate + 1)) - self.translate
        if operation == "shear":
            frames = _warp(frames, np.array([[1, 0], [math.tan(self.shear * signed), 1]]))
        elif operation == "translate_x":
            frames = _warp(frames, np.eye(2), (0, shift))
        elif operation == "translate_y":
            frames = _warp(frames, np.eye(2), (shift, 0))
        elif operation == "rotate":
            angle = math.radians(self.rotate * signed)
            c, s = math.cos(angle), math.sin(angle)
            frames = _warp(frames, np.array([[c, -s], [s, c]]))
        elif operation == "cutout" and self.cutout:
            height, width = frames.shape[-2:]
            side = round((height * width * (0.001 + (self.cutout - 0.001) * much)) ** 0.5)
            h, w = min(side, height), min(side, width)
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
            frames = frames.copy()
            frames[..., top : top + h, left : left + w] = 0
        return np.ascontiguousarray(frames)


def _warp(frames: Frames, matrix: NDArray[np.float64], shift: tuple[int, int] = (0, 0)) -> Frames:
    """Each (row, column) from its nearest source: the inverse of `matrix` about the centre, after moving by shift."""
    height, width = frames.shape[-2:]
    centre = np.array([(height - 1) / 2, (width - 1) / 2])[:, None]
    target = np.indices((height, width)).reshape(2, -1) - np.array(shift)[:, None]
    row, column = np.rint(np.linalg.inv(matrix) @ (target - centre) + centre).astype(int)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    warped = np.zeros_like(frames).reshape(*frames.shape[:-2], -1)
    warped[..., inside] = frames[..., row[inside], column[inside]]
    return warped.reshape(frames.shape)
