"""Recordings of event cameras: readers that check a file to its last byte.

The formats: docs.inivation.com/software/software-advanced-usage/file-formats, and the README of DVS128 Gesture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import DataError
from ..events import Events, arrays, checked, columns, sensor

SIDE = 128  # pixels of the DVS128 each way; both data sets were recorded with it
AGAIN = "unpack the data set again"
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
    return checked(t, x, y, 1 - (address & 1), SIDE, SIDE)


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
    return checked(t, data >> 17 & 0x7FFF, data >> 2 & 0x7FFF, data >> 1 & 1, SIDE, SIDE)


def read_npz(path: Path) -> Events:
    """An .npz with t (microseconds), x, y and p, as spikingjelly writes it, and perhaps the sensor's size, [height,
    width] in pixels; without one it is the DVS128's. Raises DataError for a damaged one."""
    return _read(path, _npz)


def _npz(content: bytes) -> Events:
    *table, size = arrays(content, ("t", "x", "y", "p"), size=np.array([SIDE, SIDE]))
    t, x, y, p = columns(table)
    return checked(t, x, y, p, *sensor(size))


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
