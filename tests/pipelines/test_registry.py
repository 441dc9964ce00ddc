from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.errors import DataError
from pipelines.registry import Registry


@dataclass(frozen=True)
class Thing:
    name: str
    size: int = 0


@pytest.fixture
def things() -> Registry[Thing]:
    things: Registry[Thing] = Registry("thing")
    for name in ("square", "circle"):
        things.register(Thing(name))
    return things


def test_what_is_registered_is_found_by_its_name(things: Registry[Thing]):
    mine = things.register(Thing("triangle", 3))
    assert things.get("triangle") is mine
    assert things.names() == ["square", "circle", "triangle"]


def test_an_unknown_name_is_told_the_nearest(things: Registry[Thing]):
    with pytest.raises(DataError, match="^thing 'sqare' is unknown; did you mean square[?]$"):
        things.get("sqare")
    with pytest.raises(DataError, match="^thing 'xyz' is unknown; did you mean square or circle[?]$"):
        things.get("xyz")


def test_a_name_means_one_thing(things: Registry[Thing]):
    things.register(Thing("square"))  # the same again, as where a module is imported twice
    with pytest.raises(DataError, match="^thing 'square' is there already; give yours another name$"):
        things.register(Thing("square", 1))
    assert things.get("square") == Thing("square")
