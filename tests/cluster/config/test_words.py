"""Values and choices as a message has them: short, on one line, without secrets."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config.words import either, expected, nearest, show


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        ("", "empty"),
        ("a\n b", "a b"),
        ("\x1b[0m", r"\x1b[0m"),
        ([1, "a", None], "[1, a, null]"),
        ({"a": [True]}, "{a: [true]}"),
        ("https://me:hunter2@host/set", "https://***@host/set"),
    ],
)
def test_a_value_is_one_short_line(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_a_long_one_is_without_its_middle() -> None:
    shown = show("/a/long/path" * 30 + "/its end")
    assert len(shown) == 80 and shown.startswith("/a/long/path") and shown.endswith("/its end") and "..." in shown


def test_choices() -> None:
    assert [either(list("abc")[:n]) for n in (1, 2, 3)] == ["a", "a or b", "a, b or c"]
    assert expected("int | None", None) == "a whole number or null"
    assert nearest("lr", ["train.lr", "train.lrs", "log.every_steps"]) == "train.lr"
    assert nearest("learning_rate", ["train.layer_decay", "train.lr"]) == "train.lr"
