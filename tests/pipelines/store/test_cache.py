"""Which files leave a cache that is full."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipelines.remote import Remote
from pipelines.store.cache import Cache, Item

SIZE = 100


@pytest.mark.parametrize("used_again", range(3))
def test_what_was_needed_longest_ago_goes_first(tmp_path: Path, used_again: int) -> None:
    """Whichever of three it was; neither names nor the order of fetching decide."""
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    items = []
    for number in range(4):
        content = bytes([number]) * SIZE
        (tmp_path / str(number)).write_bytes(content)
        remote = Remote(f"file://{tmp_path}") / str(number)
        items.append(Item(remote, SIZE, hashlib.sha256(content).hexdigest()))
    *first, last = items
    for item in first:
        os.close(cache.open(item))
    order = [*range(used_again, 3), *range(used_again)]  # of their last use, the earliest first
    for moment, number in enumerate(order):
        os.utime(cache.path(items[number]), (1000 + moment, 1000 + moment))
    os.close(cache.open(last))
    assert [number for number in range(4) if not cache.path(items[number]).exists()] == [order[0]]
