"""Recordings written byte by byte, as the cameras' software writes them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

HEADER2 = (
    b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"
    b"# Data format is int32 address, int32 timestamp (8 bytes total), repeated for each event\r\n"
    b"# Timestamps tick is 1 us\r\n#\r\n# created Thu Dec 03 14:47:00 CET 2015 \xe9\r\n"
)
HEADER3 = (
    b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-08-01 10:00:00 (TZ+0200)\r\n"
    b"#!END-HEADER\r\n"
)

Event = tuple[int, int, int, int]  # t, x, y, p, as the camera has them


def aedat2(events: list[Event], header: bytes = HEADER2) -> bytes:
    """x in bits 1..7, y in bits 8..14."""
    return header + b"".join(struct.pack(">Ii", y << 8 | x << 1 | p, t) for t, x, y, p in events)


def packet(
    events: list[Event],
    *,
    kind: int = 1,
    overflow: int = 0,
    valid: list[bool] | None = None,
    size: int = 8,
    offset: int = 4,
    number: int | None = None,
    counted: int | None = None,
    spare: int = 0,
) -> bytes:
    """spare: room for events that is left unused. number and counted: what the header says instead of the truth."""
    flags = [True] * len(events) if valid is None else valid
    body = b"".join(
        struct.pack("<Ii", x << 17 | y << 2 | p << 1 | v, t) for (t, x, y, p), v in zip(events, flags, strict=True)
    )
    number = len(events) if number is None else number
    counted = sum(flags) if counted is None else counted
    head = struct.pack("<hhiiiiii", kind, 1, size, offset, overflow, len(events) + spare, number, counted)
    return head + body + b"\xff" * (8 * spare)


def gestures(folder: Path, recordings: dict[str, int], count: int = 200) -> None:
    """A small DVS128 Gesture: in each recording a part of each of four classes, `count` events of it at columns that
    tell its class, and as many events between the parts that belong to none."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for user, split in enumerate(split for split, n in recordings.items() for _ in range(n)):
        name = f"user{user:02d}_lab"
        with (folder / f"trials_to_{split}.txt").open("a") as trials:
            trials.write(f"{name}.aedat\n")
        rows, labels, t = [], ["class,startTime_usec,endTime_usec"], 0
        for label in range(4):
            for inside in (False, True):
                times = t + np.sort(rng.integers(0, 1000, count))
                column = 32 * label if inside else 0
                for time in times:
                    rows.append((int(time), column + int(rng.integers(32)), *map(int, rng.integers((128, 2)))))
                if inside:
                    labels.append(f"{label + 1},{t},{t + 1000}")
                t += 1000
        body = b"".join(packet(rows[i : i + 100]) for i in range(0, len(rows), 100))
        (folder / f"{name}.aedat").write_bytes(HEADER3 + body)
        (folder / f"{name}_labels.csv").write_text("\n".join(labels) + "\n")
