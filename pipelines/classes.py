"""Classes by name: a label is only a number, and the same number is another class where the names are others."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import DataError


def mapping(wanted: Sequence[str], found: Sequence[str], of: str, where: str) -> list[int] | None:
    """The number in `wanted` of each class of `found`, `wanted[mapping[i]] == found[i]`; None where they are equal.

    of, where: what has `wanted` and what has `found`, for messages. Raises DataError, naming the first difference,
    where the names are not the same ones.
    """
    if list(wanted) == list(found):
        return None
    if difference := first_difference(wanted, found):
        raise DataError(f"{where} has other classes than {of}: {difference}; give what was made of one data set")
    number = {name: i for i, name in enumerate(wanted)}
    return [number[name] for name in found]


def first_difference(wanted: Sequence[str], found: Sequence[str]) -> str | None:
    """In words: the first name that `found` lacks, the first that it has beyond `wanted` or twice, and how many it has;
    None where the names are the same ones, in any order."""
    own, theirs = set(wanted), set(found)
    lacks = [name for name in wanted if name not in theirs]
    beyond = [name for i, name in enumerate(found) if name not in own or name in found[:i]]
    if not lacks and not beyond and len(wanted) == len(found):
        return None
    words = [f"{names[0]!r} is {what}" for names, what in ((lacks, "missing"), (beyond, "extra")) if names]
    return f"{', '.join(words or ['a name is there twice'])} ({len(found)} classes, {len(wanted)} wanted)"
