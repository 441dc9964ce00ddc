"""What a library's error says, in one line."""

from __future__ import annotations

import pytest

from tdformer.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n one\ntwo"), "one"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 500), "x" * 120),
    ],
)
def test_it_is_the_first_line_and_not_long(error: Exception, line: str) -> None:
    assert first_line(error) == line
