"""Recordings of event cameras: readers that check a file to its last byte, and how events lie in shards.

The formats: docs.inivation.com/software/software-advanced-usage/file-formats, and the README of DVS128 Gesture.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

SIDE = 128  # pixels of the DVS128 each way; both data sets were recorded with it
AGAIN = "unpack the data set again"
MAX_BYTES = 1 << 32
"""What the arrays of one .npz may have, unpacked: 134 million events of 32 bytes."""
T = TypeVar("T")

DVS128_GESTURE_CLASSES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)


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


def _events(t: Any, x: Any, y: Any, p: Any, height: int, width: int) -> Events:
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


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    """The parsed file; a DataError of `parse` gets the file's name and what to do."""
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise DataError(f"{path} cannot be read (it is no regular file); {AGAIN}")
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; {AGAIN}, or name the folder that has it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from error
    except DataError as error:
        raise DataError(f"{path} {error}; {AGAIN}") from error


def read(path: Path) -> Events:
    """An .npz, or an .aedat of version 2.0 or 3.1 by its first bytes. Raises DataError for a damaged one."""
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    return _read(path, lambda content: (_aedat3 if content.startswith(b"#!AER-DAT3") else _aedat2)(content))


def read_aedat2(path: Path) -> Events:
    """AEDAT 2.0 of a DVS128, as CIFAR10-DVS has it. Raises DataError for every file that is not whole.

    x = 127 - bits 8..14, y = 127 - bits 1..7, p = 1 - bit 0: spikingjelly's reading, because published results are
    trained on its frames and a horizontal flip must mean the same. jAER and libcaer agree on p (iniVation's page says
    the opposite), but have x in bits 1..7 and y in bits 8..14: the transposed picture.
    """
    return _read(path, _aedat2)


def _aedat2(content: bytes) -> Events:
    # No event is taken for a header line: the first byte of a DVS128's address is never a '#'.
    header = re.match(rb"#!AER-DAT2\.0\r?\n(?:#[^\n]*\n)*", content)
    if header is None:
        raise DataError("does not begin with an AEDAT 2.0 header at byte 0")
    start = header.end()
    whole, rest = divmod(len(content) - start, 8)
    if rest:
        raise DataError(f"ends at byte {len(content)}, in the middle of event {whole}")
    address, stamp = np.frombuffer(content, ">i4", offset=start).reshape(-1, 2).astype(np.int32).T
    foreign = np.flatnonzero(address & 0x7FFF0000)
    if len(foreign):
        i = foreign[0]
        raise DataError(f"has address {address[i]:#x}, which no DVS128 sends, in event {i} at byte {start + 8 * i}")
    # The clock has 32 bits. Differences modulo 2**32, read as signed, go on over its wrap, and are negative where
    # time does run backwards.
    t = np.cumsum(np.concatenate([stamp[:1], np.diff(stamp)]), dtype=np.int64)
    pixel = (address >= 0) & (address & 0x8000 == 0)  # bits 15 and 31 mark signals on the camera's pins
    address, t = address[pixel], t[pixel]
    x, y = SIDE - 1 - (address >> 8 & 127), SIDE - 1 - (address >> 1 & 127)
    return _events(t, x, y, 1 - (address & 1), SIDE, SIDE)


POLARITY = 1  # the packet type of pixel events
PACKET = struct.Struct("<2h6i")  # type, source, event size, offset of the time, its overflow, capacity, number, valid


def read_aedat3(path: Path) -> Events:
    """AEDAT 3.1 of a DVS128, as DVS128 Gesture has it. Raises DataError for every file that is not whole.

    Only valid polarity events count; packets of other types are passed over. x, y and p are as stored: the format
    has its origin in the upper left.
    """
    return _read(path, _aedat3)


def _aedat3(content: bytes) -> Events:
    header = re.match(rb"#!AER-DAT3\.1\r?\n(?:#[^\n]*\n)*?#!END-HEADER\r?\n", content)
    if header is None:
        raise DataError("does not begin with an AEDAT 3.1 header at byte 0")
    if b"\n#Format: RAW" not in header[0]:
        raise DataError("has a header without Format: RAW, the only format that is read")
    position = header.end()
    packets, overflows = [np.empty((0, 2), np.int32)], [0]
    while position < len(content):
        place, first = f"the packet at byte {position}", position + PACKET.size
        if first > len(content):
            raise DataError(f"ends in the header of {place}")
        kind, _, size, offset, overflow, capacity, number, valid = PACKET.unpack_from(content, position)
        if kind < 0 or size < 1 or overflow < 0 or not 0 <= valid <= number <= capacity:
            raise DataError(f"has an impossible header in {place}")
        position = first + size * capacity
        if position > len(content):
            raise DataError(f"ends in {place}, which needs {size * capacity} bytes and has {len(content) - first}")
        if kind != POLARITY:
            continue
        if (size, offset) != (8, 4):
            raise DataError(f"has events of {size} bytes with the time at {offset}, not 8 and 4, in {place}")
        records = np.frombuffer(content, "<i4", 2 * number, first).reshape(-1, 2)
        records = records[records[:, 0] & 1 == 1]
        if len(records) != valid:
            raise DataError(f"has {len(records)} valid events in {place}, whose header says {valid}")
        packets.append(records)
        overflows.append(overflow)
    data, stamp = np.concatenate(packets).T
    if (stamp < 0).any():
        raise DataError(f"has a negative time in event {np.argmax(stamp < 0)}")
    t = np.repeat(np.array(overflows, np.int64) << 31, [len(records) for records in packets]) + stamp
    return _events(t, data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, data >> 1 & 1, SIDE, SIDE)


def read_npz(path: Path) -> Events:
    """An .npz with t (microseconds), x, y and p, as spikingjelly writes it, and perhaps the sensor's size, [height,
    width] in pixels; without one it is the DVS128's. Raises DataError for a damaged one."""
    return _read(path, _npz)


def _npz(content: bytes) -> Events:
    *columns, size = _arrays(content, ("t", "x", "y", "p"), size=np.array([SIDE, SIDE]))
    t, x, y, p = _columns(columns)
    return _events(t, x, y, p, *_size(size))


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
        *arrays, size = _arrays(content, ("dt", "x", "y", "p", "size"))
        dt, x, y, p = _columns(arrays)
        return _events(np.cumsum(dt), x, y, p, *_size(size))
    except DataError as error:
        raise DataError(f"does not decode as events ({error})") from error


def _arrays(content: bytes, keys: tuple[str, ...], **defaults: NDArray[Any]) -> list[NDArray[Any]]:
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


def _size(size: NDArray[Any]) -> tuple[int, int]:
    """Height and width of a sensor. Raises DataError where they cannot be."""
    if size.dtype.kind not in "iu" or size.shape != (2,) or not (0 < size.min() <= size.max() < 2**15):
        raise DataError(f"has size {size.ravel()[:3].tolist()}, not [height, width] in pixels")
    return int(size[0]), int(size[1])


def _columns(arrays: list[NDArray[Any]]) -> list[NDArray[np.int64]]:
    """Times, x, y and p as int64 `[n]`. Raises DataError where they cannot be."""
    for key, array in zip(("time", "x", "y", "p"), arrays, strict=True):
        if array.dtype.kind not in "iub" or array.ndim != 1 or array.shape != arrays[0].shape:
            raise DataError(f"has {key} as {array.dtype} {list(array.shape)}, not one whole number an event")
    if not np.isin(arrays[3], (0, 1)).all():
        raise DataError("has p other than 0 and 1")
    return [array.astype(np.int64) for array in arrays]


def read_text(path: Path) -> str:
    """A small file of ASCII text. Raises DataError where it cannot be read."""
    return _read(path, lambda content: content.decode("ascii", "replace"))


def read_labels(path: Path) -> list[tuple[int, int, int]]:
    """A DVS128 Gesture *_labels.csv: (label 0..10, start, end) in microseconds. Raises DataError for a damaged one."""
    return _read(path, _labels)


def _labels(content: bytes) -> list[tuple[int, int, int]]:
    text = content.decode("ascii", "replace").splitlines()
    rows = [line.strip().split(",") for line in text if line.strip()]
    if not rows or rows[0] != ["class", "startTime_usec", "endTime_usec"]:
        raise DataError("does not begin with class,startTime_usec,endTime_usec")
    labels = []
    for i, row in enumerate(rows[1:], 1):
        try:
            number, start, end = (int(cell) for cell in row)
        except ValueError as error:
            raise DataError(f"has {','.join(row)!r} in row {i}, not three whole numbers") from error
        if not (1 <= number <= len(DVS128_GESTURE_CLASSES) and 0 <= start < end):
            raise DataError(f"has class {number} from {start} to {end} us in row {i}")
        labels.append((number - 1, start, end))
    if not labels:
        raise DataError("has no gestures")
    return labels
