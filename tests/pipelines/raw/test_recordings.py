"""Recordings that the tests write byte by byte, whole and with each fault."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from event_files import HEADER2, HEADER3, aedat2, packet

from pipelines.errors import DataError
from pipelines.events import Events
from pipelines.raw import recordings


def rows(events: Events) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in row) for row in zip(events.t, events.x, events.y, events.p, strict=True)]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "recording.aedat"
        path.write_bytes(content)
        return path

    return write


def one_line(error: pytest.ExceptionInfo[DataError], path: Path) -> None:
    """The message is one line, begins with the file and ends with what to do."""
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(path)) and "; " in message


# AEDAT 2.0


def test_aedat2_is_read_as_spikingjelly_reads_it(file):
    """The corner of the DVS128 that is its x 127, y 0, becomes column 127, row 0; a clear bit 0 is ON."""
    events = recordings.read_aedat2(file(aedat2([(5, 127, 0, 0), (5, 0, 127, 1), (9, 3, 17, 0)])))
    assert rows(events) == [(5, 127, 0, 1), (5, 0, 127, 0), (9, 110, 124, 1)]
    assert (events.t.dtype, events.x.dtype, events.y.dtype, events.p.dtype) == (np.int64, np.int16, np.int16, np.uint8)
    assert (events.height, events.width, len(events)) == (128, 128, 3)


def test_aedat2_with_plain_line_ends_and_no_comments(file):
    assert rows(recordings.read_aedat2(file(aedat2([(7, 1, 2, 1)], b"#!AER-DAT2.0\n")))) == [(7, 125, 126, 0)]


def test_aedat2_time_goes_on_over_the_wraps_of_its_clock(file):
    top = 2**31
    stamps = [top - 10, -top + 5, -1, 3]  # signed 32 bits: over the sign, then over zero
    events = recordings.read_aedat2(file(aedat2([(t, 0, 0, 0) for t in stamps])))
    assert events.t.tolist() == [top - 10, top + 5, 2 * top - 1, 2 * top + 3]


def test_aedat2_signals_on_the_pins_are_no_pixels(file):
    signals = struct.pack(">IiIi", 0x8000, 6, 0x80000000, 7)
    content = aedat2([(5, 1, 1, 0)]) + signals + aedat2([(8, 2, 2, 0)], b"")
    assert recordings.read_aedat2(file(content)).t.tolist() == [5, 8]


@pytest.mark.parametrize("lost", range(1, 8))
def test_aedat2_cut_in_the_middle_of_an_event(file, lost):
    content = aedat2([(i, 1, 1, 0) for i in range(3)])
    path = file(content[:-lost])
    with pytest.raises(DataError, match=f"ends at byte {len(content) - lost}, in the middle of event 2") as error:
        recordings.read_aedat2(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "AEDAT 2.0 header at byte 0"),
        (b"\x89PNG\r\n\x1a\n", "AEDAT 2.0 header at byte 0"),
        (HEADER3 + packet([(0, 0, 0, 0)]), "AEDAT 2.0 header at byte 0"),
        (HEADER2, "no events"),
        (HEADER2[:-2] + b"--", "in the middle of event"),  # a comment without its end
        (aedat2([(1, 1, 1, 0)]) + b"#1234567", "address 0x23313233.* event 1 at byte"),  # begins like a comment
        (aedat2([(1, 1, 1, 0)]) + struct.pack(">Ii", 1 << 22, 2), "address 0x400000"),  # a DAVIS
        (aedat2([(10, 1, 1, 0), (20, 1, 1, 0), (19, 1, 1, 0)]), "backwards in time at event 2, from 20 to 19 us"),
    ],
)
def test_aedat2_faults(file, content, message):
    path = file(content)
    with pytest.raises(DataError, match=message) as error:
        recordings.read_aedat2(path)
    one_line(error, path)


# AEDAT 3.1


def test_aedat3_is_read_as_it_is_stored(file):
    content = HEADER3 + packet([(5, 127, 0, 1), (5, 0, 127, 0)]) + packet([(9, 3, 17, 1)])
    assert rows(recordings.read_aedat3(file(content))) == [(5, 127, 0, 1), (5, 0, 127, 0), (9, 3, 17, 1)]


def test_aedat3_overflow_is_the_upper_part_of_the_time(file):
    content = HEADER3 + packet([(2**31 - 1, 0, 0, 0)]) + packet([(4, 0, 0, 0), (6, 0, 0, 0)], overflow=3)
    assert recordings.read_aedat3(file(content)).t.tolist() == [2**31 - 1, (3 << 31) + 4, (3 << 31) + 6]


def test_aedat3_invalid_events_spare_room_and_other_packets_are_passed_over(file):
    special = packet([(99, 0, 0, 0)], kind=0)
    frame = struct.pack("<hhiiiiii", 2, 1, 50, 12, 0, 1, 1, 1) + b"\x01" * 50
    cut = packet([(5, 1, 1, 1), (6, 999, 2, 1), (7, 3, 3, 1)], valid=[True, False, True], spare=2)
    content = HEADER3 + special + cut + frame + packet([]) + packet([(8, 4, 4, 1)]) + special
    assert recordings.read_aedat3(file(content)).t.tolist() == [5, 7, 8]


def test_aedat3_cut_anywhere_is_refused(file):
    """Except between two packets, where the format does not tell a shorter recording from a cut one."""
    packets = [packet([(1, 1, 1, 1), (2, 2, 2, 0)]), packet([(3, 0, 0, 0)], kind=0), packet([(4, 3, 3, 1)])]
    whole = HEADER3 + b"".join(packets)
    ends = np.cumsum([len(HEADER3), *(len(p) for p in packets)]).tolist()
    for length in range(len(whole)):
        path = file(whole[:length])
        if length in ends[1:]:
            assert len(recordings.read_aedat3(path)) == 2
            continue
        with pytest.raises(DataError) as error:
            recordings.read_aedat3(path)
        one_line(error, path)
        if length > ends[0]:
            assert f"packet at byte {max(end for end in ends if end < length)}" in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no events"),
        (packet([(1, 1, 1, 1)], kind=0), "no events"),
        (packet([(1, 1, 1, 1)], valid=[False]), "no events"),
        (packet([(1, 128, 1, 1)]), "event 0 at x 128, y 1, outside 128 x 128"),
        (packet([(1, 1, 1, 1), (1, 1, 130, 1)]), "event 1 at x 1, y 130"),
        (packet([(2, 1, 1, 1)]) + packet([(1, 1, 1, 1)]), "backwards in time at event 1, from 2 to 1 us"),
        (packet([(1, 1, 1, 1)], overflow=1) + packet([(2, 1, 1, 1)]), "backwards in time at event 1"),
        (packet([(-1, 1, 1, 1)]), "negative time in event 0"),
        (packet([(1, 1, 1, 1)], size=16), "needs 16 bytes and has 8"),
        (packet([(1, 1, 1, 1)], size=4), "events of 4 bytes with the time at 4, not 8 and 4"),
        (packet([(1, 1, 1, 1)], offset=0), "events of 8 bytes with the time at 0"),
        (packet([(1, 1, 1, 1)], number=2, counted=2), "impossible header in the packet at byte"),
        (packet([(1, 1, 1, 1)], counted=0), "1 valid events in the packet at byte .* says 0"),
        (packet([(1, 1, 1, 1)], kind=-1), "impossible header"),
        (packet([(1, 1, 1, 1)]) + bytes(64), "impossible header"),  # a tail that was never written
        (packet([(1, 1, 1, 1)]) + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2**31 - 1, 1, 1), "needs 17179869176 bytes"),
        (packet([(1, 1, 1, 1)]) + struct.pack("<hhiiiiii", 0, 1, 2**31 - 1, 4, 0, 9, 1, 1), "needs 19327352823 bytes"),
    ],
)
def test_aedat3_faults(file, body, message):
    path = file(HEADER3 + body)
    with pytest.raises(DataError, match=message) as error:
        recordings.read_aedat3(path)
    one_line(error, path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "AEDAT 3.1 header at byte 0"),
        (HEADER2, "AEDAT 3.1 header at byte 0"),
        (HEADER3.replace(b"#!END-HEADER\r\n", b""), "AEDAT 3.1 header at byte 0"),
        (HEADER3.replace(b"3.1", b"4.0"), "AEDAT 3.1 header at byte 0"),
        (HEADER3.replace(b"RAW", b"PNGFrames"), "without Format: RAW"),
    ],
)
def test_aedat3_header_faults(file, header, message):
    with pytest.raises(DataError, match=message):
        recordings.read_aedat3(file(header + packet([(1, 1, 1, 1)])))


def test_missing_and_unreadable_files(tmp_path):
    for read in (recordings.read_aedat2, recordings.read_aedat3, recordings.read_npz, recordings.read_labels):
        with pytest.raises(DataError, match="nowhere is missing; .* or name the folder"):
            read(tmp_path / "nowhere")
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path)


# .npz and the serialisation in shards


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, allow_pickle=True, **arrays)
    return path


SENSOR = np.array([5, 10])
T, X, Y, P = np.array([1, 1, 5]), np.array([0, 3, 9]), np.array([4, 0, 4]), np.array([0, 1, 1])


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.uint8])
def test_npz_of_any_whole_numbers(tmp_path, kind):
    path = npz(tmp_path / "a.npz", t=T.astype(kind), x=X.astype(kind), y=Y.astype(kind), p=P.astype(bool), size=SENSOR)
    events = recordings.read_npz(path)
    assert rows(events) == [(1, 0, 4, 0), (1, 3, 0, 1), (5, 9, 4, 1)] and (events.height, events.width) == (5, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": T[:2]}, "has x as int64 \\[3\\]"),
        ({"t": np.array(3)}, "has time as int64 \\[\\]"),
        ({"x": X.astype(float)}, "has x as float64"),
        ({"p": P * 2}, "p other than 0 and 1"),
        ({"x": X + 1}, "event 2 at x 10, y 4, outside 10 x 5"),
        ({"y": Y - 1}, "event 1 at x 3, y -1"),
        ({"x": X + 2**16}, "event 0 at x 65536"),
        ({"t": T[::-1]}, "backwards in time at event 1, from 5 to 1 us"),
        ({"t": np.array([3, 2, 1], np.uint32)}, "backwards in time at event 1"),
        ({k: np.empty(0, int) for k in "txyp"}, "no events"),
        ({"size": np.array(5)}, "has size \\[5\\], not \\[height, width\\]"),
        ({"size": np.array([5, 0])}, "has size \\[5, 0\\], not"),
        ({"size": np.array([5, 2**15])}, "has size \\[5, 32768\\], not"),
        ({"t": np.array([print, print, print])}, "not a whole .npz \\(ValueError\\)"),  # pickled, and stays so
    ],
)
def test_npz_faults(tmp_path, change, message):
    path = npz(tmp_path / "a.npz", **({"t": T, "x": X, "y": Y, "p": P, "size": SENSOR} | change))
    with pytest.raises(DataError, match=message) as error:
        recordings.read_npz(path)
    one_line(error, path)


def test_npz_without_a_key_and_of_no_zip(tmp_path):
    with pytest.raises(DataError, match="has no array p, of t, x, y, p"):
        recordings.read_npz(npz(tmp_path / "a.npz", t=T, x=X, y=Y))
    (tmp_path / "b.npz").write_bytes(b"")
    with pytest.raises(DataError, match="not a whole .npz \\(BadZipFile\\)"):
        recordings.read_npz(tmp_path / "b.npz")


@pytest.mark.parametrize("claim", [b"(9,), }            ", b"(3000000000000,), }"])
def test_npz_whose_array_claims_more_than_it_has(tmp_path, claim):
    path = npz(tmp_path / "a.npz", t=T, x=X, y=Y, p=P)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            assert b"(3,), }            " in content
            archive.writestr(name, content.replace(b"(3,), }            ", claim))
    with pytest.raises(DataError, match="not a whole .npz"):
        recordings.read_npz(path)
