"""Events of a camera that tells changes: what a recording holds, and how it lies in a shard."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

Integers = NDArray[np.int64]
MAX_BYTES = 1 << 32
"""What the arrays of one .npz may have, unpacked: 134 million events of 32 bytes."""


@dataclass(frozen=True)
class Events:
    """n events in the order of time, arrays `[n]`: t int64 microseconds; x int16 column and y int16 row, (0, 0) the
    upper left; p uint8, 1 where it became brighter (ON), 0 darker (OFF). height and width of the sensor in pixels."""

    t: NDArray[np.int64]
    x: NDArray[np.int16]
    y: NDArray[np.int16]
    p: NDArray[np.uint8]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.t)

    def between(self, start: int, end: int) -> Events:
        """The events with start <= t < end, microseconds."""
        cut = slice(*np.searchsorted(self.t, (start, end)))
        return Events(self.t[cut], self.x[cut], self.y[cut], self.p[cut], self.height, self.width)


def checked(t: Integers, x: Integers, y: Integers, p: Integers, height: int, width: int) -> Events:
    """Integer arrays `[n]` as Events, or a DataError that names the first event that cannot be."""
    if not len(t):
        raise DataError("has no events")
    outside = np.flatnonzero((x < 0) | (x >= width) | (y < 0) | (y >= height))
    if len(outside):
        i = outside[0]
        raise DataError(f"has event {i} at x {x[i]}, y {y[i]}, outside {width} x {height} pixels")
    back = np.flatnonzero(t[1:] < t[:-1]) + 1
    if len(back):
        i = back[0]
        raise DataError(f"runs backwards in time at event {i}, from {t[i - 1]} to {t[i]} us")
    return Events(t.astype(np.int64), x.astype(np.int16), y.astype(np.int16), p.astype(np.uint8), height, width)


def encode(events: Events) -> bytes:
    """Events -> a compressed .npz: nothing is lost, and the same events are the same bytes."""
    buffer = io.BytesIO()
    dt = np.diff(events.t, prepend=0)  # compresses better than the times themselves
    size = np.array([events.height, events.width], np.int16)
    np.savez_compressed(buffer, allow_pickle=False, dt=dt, x=events.x, y=events.y, p=events.p, size=size)
    return buffer.getvalue()


def decode(content: bytes) -> Events:
    """What `encode` wrote. Raises DataError for anything else."""
    try:
        *table, size = arrays(content, ("dt", "x", "y", "p", "size"))
        dt, x, y, p = columns(table)
        return checked(np.cumsum(dt), x, y, p, *sensor(size))
    except DataError as error:
        raise DataError(f"does not decode as events ({error})") from error


def arrays(content: bytes, keys: tuple[str, ...], **defaults: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Arrays of an .npz by name, then those that it may lack: every byte is compared with the zip's checksums, nothing
    is unpickled."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            missing = [key for key in keys if f"{key}.npy" not in names]
            wanted = [k for k in (*keys, *defaults) if f"{k}.npy" in names]
            if (needed := sum(archive.getinfo(f"{k}.npy").file_size for k in wanted)) > MAX_BYTES:
                raise DataError(f"unpacks to {needed:,} bytes, more than {MAX_BYTES:,}")
            found = {k: archive.read(f"{k}.npy") for k in wanted}
        loaded = {k: np.lib.format.read_array(io.BytesIO(file), allow_pickle=False) for k, file in found.items()}
    except DataError:
        raise
    except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise half a dozen kinds
        raise DataError(f"is not a whole .npz ({type(error).__name__})") from error
    if missing:
        raise DataError(f"has no array {missing[0]}, of {', '.join(keys)}")
    return [(defaults | loaded)[key] for key in (*keys, *defaults)]


def sensor(size: NDArray[np.generic]) -> tuple[int, int]:
    """Height and width of a sensor. Raises DataError where they cannot be."""
    if size.dtype.kind not in "iu" or size.shape != (2,) or not all(0 < side < 2**15 for side in size):
        raise DataError(f"has size {size.ravel()[:3].tolist()}, not [height, width] in pixels")
    return int(size[0]), int(size[1])


def columns(table: Sequence[NDArray[np.generic]]) -> list[NDArray[np.int64]]:
    """Times, x, y and p as int64 `[n]`. Raises DataError where they cannot be."""
    names = ("time", "x", "y", "p")
    for name, array in zip(names, table, strict=True):
        if array.dtype.kind not in "iub" or array.ndim != 1 or array.shape != table[0].shape:
            raise DataError(f"has {name} as {array.dtype} {list(array.shape)}, not one whole number an event")
    if not np.isin(table[names.index("p")], (0, 1)).all():
        raise DataError("has p other than 0 and 1")
    return [array.astype(np.int64) for array in table]
