"""Events in a shard: nothing is lost, and no damage goes through."""

from __future__ import annotations

import io
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pipelines import events
from pipelines.errors import DataError
from pipelines.events import Events

T, X, Y, P = np.array([1, 1, 5]), np.array([0, 3, 9]), np.array([4, 0, 4]), np.array([0, 1, 1])


def rows(of: Events) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in row) for row in zip(of.t, of.x, of.y, of.p, strict=True)]


@st.composite
def some_events(draw: st.DrawFn) -> Events:
    n = draw(st.integers(1, 60))
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    t = draw(st.integers(-(2**40), 2**40)) + np.cumsum(rng.integers(0, draw(st.integers(1, 2**33)), n))
    x, y, p = (rng.integers(0, top, n) for top in (width, height, 2))
    return Events(t, x.astype(np.int16), y.astype(np.int16), p.astype(np.uint8), height, width)


@hypothesis.settings(max_examples=100)
@hypothesis.given(some_events())
def test_encoding_loses_nothing_and_is_the_same_bytes_each_time(given: Events):
    content = events.encode(given)
    again = events.decode(content)
    assert rows(again) == rows(given) and (again.height, again.width) == (given.height, given.width)
    assert again.x.dtype == again.y.dtype == np.int16 and again.t.dtype == np.int64 and again.p.dtype == np.uint8
    assert events.encode(again) == content


def test_encoding_carries_no_clock():
    given = Events(T, X.astype(np.int16), Y.astype(np.int16), P.astype(np.uint8), 5, 10)
    with zipfile.ZipFile(io.BytesIO(events.encode(given))) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_no_damage_to_the_encoding_goes_through():
    """Every byte changed, every length cut: an error, or, in the zip's unused fields, the same events."""
    given = Events(T, X.astype(np.int16), Y.astype(np.int16), P.astype(np.uint8), 5, 10)
    content = events.encode(given)
    refused = 0
    for i in range(len(content)):
        damaged = bytearray(content)
        damaged[i] ^= 0x55
        for what in (bytes(damaged), content[:i]):
            try:
                assert rows(events.decode(what)) == rows(given)
            except DataError as error:
                refused += 1
                assert str(error).startswith("does not decode as events (") and "\n" not in str(error)
    assert refused > 1.5 * len(content)


def test_an_encoding_of_another_size_or_sensor_is_refused():
    buffer = io.BytesIO()
    np.savez(buffer, dt=T, x=X, y=Y, p=P, size=np.array([5, 9]))
    with pytest.raises(DataError, match="does not decode as events .*x 9, y 4, outside 9 x 5"):
        events.decode(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, dt=T, x=X, y=Y, p=P, size=np.array(5))
    with pytest.raises(DataError, match="has size"):
        events.decode(buffer.getvalue())
