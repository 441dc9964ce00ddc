"""Fetching ahead: the window that is read and the next, once; what is read now is held, and nothing after the end."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.remote import Patience, Remote
from pipelines.store.ahead import Ahead
from pipelines.store.cache import Cache, Item

SIZE, SHARDS, EACH = 100, 6, 4
WINDOWS = np.array([0, 0, 1, 1, 2, 2])
QUICK = Patience(tries=1, pause=0.01, timeout=0.1)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Six shards, two a window."""
    found = []
    for number in range(SHARDS):
        content = bytes([number]) * SIZE
        (tmp_path / str(number)).write_bytes(content)
        found.append(Item(Remote(f"file://{tmp_path}", QUICK) / str(number), SIZE, hashlib.sha256(content).hexdigest()))
    return found


@pytest.fixture
def begun(items: list[Item], tmp_path: Path) -> Iterator[Callable[..., Ahead]]:
    """Of a batch a shard, four samples each, in their order."""
    made: list[Ahead] = []

    def begin(limit: int = SHARDS * SIZE, hold: bool = False) -> Ahead:
        ids = np.arange(SHARDS * EACH).reshape(SHARDS, EACH)
        shard_of = np.repeat(np.arange(SHARDS, dtype=np.int32), EACH)
        made.append(Ahead(Cache(tmp_path / "cache", limit), items, list(ids), shard_of, WINDOWS, hold))
        return made[-1]

    yield begin
    for one in made:
        one.stop()
        for thread in one.threads:
            thread.join(10)
            assert not thread.is_alive()


def there(ahead: Ahead) -> set[int]:
    return {number for number, item in enumerate(ahead.items) if ahead.cache.path(item).exists()}


def soon(seen: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not seen() and time.monotonic() < until:
        time.sleep(0.005)
    return seen()


def test_two_windows_are_there_and_the_third_comes_with_its_turn(begun: Callable[..., Ahead]) -> None:
    ahead = begun()
    ahead.at(0)
    assert soon(lambda: ahead.present == {0, 1, 2, 3}) and there(ahead) == {0, 1, 2, 3}
    ahead.at(1)  # in the same window
    time.sleep(0.05)
    assert there(ahead) == {0, 1, 2, 3}
    ahead.at(2)
    assert soon(lambda: there(ahead) == set(range(SHARDS)))
    ahead.at(SHARDS)  # past the end
    assert ahead._wanted() == []


def test_what_no_later_batch_needs_is_not_fetched(begun: Callable[..., Ahead]) -> None:
    ahead = begun()
    ahead.at(3)
    assert soon(lambda: there(ahead) == {3, 4, 5})
    time.sleep(0.05)
    assert there(ahead) == {3, 4, 5}


def test_the_shards_of_the_window_that_is_read_are_held_until_they_were(begun: Callable[..., Ahead]) -> None:
    ahead = begun(hold=True)
    ahead.at(0)
    assert soon(lambda: ahead.present == {0, 1, 2, 3})  # and whoever fetched them has let go of their locks
    ahead.at(0)
    assert set(ahead.held) == {0, 1}
    ahead.at(1)
    assert set(ahead.held) == {1}
    ahead.at(2)
    assert set(ahead.held) == {2, 3}
    ahead.stop()
    assert not ahead.held


def test_what_is_read_now_does_not_leave_for_what_is_read_next(begun: Callable[..., Ahead]) -> None:
    """There is room for three of four."""
    ahead = begun(limit=3 * SIZE, hold=True)
    for item in ahead.items[:2]:
        os.close(ahead.cache.open(item))
    ahead.at(0)
    assert set(ahead.held) == {0, 1}
    assert soon(lambda: ahead.present | set(ahead.later) >= {2, 3})  # both were tried
    assert there(ahead) >= {0, 1} and len(there(ahead)) == 3


def test_a_shard_that_cannot_be_fetched_stops_no_other(begun: Callable[..., Ahead], tmp_path: Path) -> None:
    (tmp_path / "1").unlink()
    ahead = begun()
    ahead.at(0)
    assert soon(lambda: there(ahead) == {0, 2, 3} and 1 in ahead.later)
    (tmp_path / "1").write_bytes(bytes([1]) * SIZE)  # it is tried again
    assert soon(lambda: there(ahead) == {0, 1, 2, 3})


def test_nothing_is_fetched_after_the_end(begun: Callable[..., Ahead]) -> None:
    ahead = begun()
    ahead.at(0)
    ahead.stop()
    assert soon(lambda: not any(thread.is_alive() for thread in ahead.threads))
    before = there(ahead)
    ahead.at(2)
    assert there(ahead) == before
