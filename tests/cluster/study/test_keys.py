from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from cluster.errors import RunError
from cluster.study.keys import read


@dataclass(frozen=True)
class One:
    x: str
    columns: tuple[str, ...] | None = None
    gpus: tuple[int, ...] = ()
    share: float = 0.5
    times: int = 1
    log: Literal["", "x"] = ""
    where: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share is {self.share:g}; it is at most 1")


def test_values_by_the_types_of_fields() -> None:
    given = {"x": "a", "columns": "b", "gpus": [1, 2], "share": 1, "log": "x", "where": {"c": 3}}
    assert read(One, given, "here") == One("a", ("b",), (1, 2), 1, 1, "x", {"c": 3})
    assert read(One, {"x": "a", "columns": None}, "here") == One("a")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "here: x is missing"),
        ({"x": ""}, "here: x is missing"),
        ({"y": 1}, "here: no key y; did you mean x? There are x, columns, gpus, share, times, log, where"),
        ({"x": 1}, "here: x is 1; it takes text"),
        ({"x": "a", "columns": ["b", 2]}, "here: columns is [b, 2]; it takes a column, or a list of them"),
        ({"x": "a", "gpus": 0}, "here: gpus is 0; it takes whole numbers above 0"),
        ({"x": "a", "times": True}, "here: times is true; it takes a whole number"),
        ({"x": "a", "share": float("inf")}, "here: share is inf; it takes a number"),
        ({"x": "a", "share": 2}, "here: share is 2; it is at most 1"),
        ({"x": "a", "log": "y"}, "here: log is y; choose empty or x"),
        ({"x": "a", "where": []}, "here: where is []; it takes values by column"),
    ],
)
def test_what_cannot_be_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        read(One, given, "here")
    assert str(caught.value) == said
