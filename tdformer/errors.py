"""The one error that the model package raises for input that cannot work."""

from __future__ import annotations


class ModelError(ValueError):
    """One line: what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in a line of at most 120 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
