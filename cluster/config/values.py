"""What people write for a setting, read by its type: a text stays as it was typed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NULL = ("", "~", "null", "Null", "NULL")
ANY = "any"
"""The type of a value that is read as it looks: null, a number, true or false, a text, or a list of them."""
TEXTS, LISTS = ("str", "str | None"), ("list[str]", "list[str] | None")
"""Types whose values are texts, and lists of them."""


class Word(NamedTuple):
    """A scalar. quoted: it is a text, whatever it looks like."""

    text: str
    quoted: bool = False


Raw = Word | list[Word]


class Form(NamedTuple):
    """How a text becomes a value where the type does not say it; `read` raises ValueError. words: for messages."""

    read: Callable[[str], object]
    words: str


def _minutes(text: str) -> int:
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    days, *rest = match.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None and len(parts) < 3:  # without days, what comes first are minutes
        parts.insert(0, 0)
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return (int(days or 0) * 24 + hours) * 60 + minutes + -(-seconds // 60)


def _folder(text: str) -> str:
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(text)
    return path


def _images(text: str) -> int | str:
    return text if text == AUTO else _int(text)


AUTO = "auto"
"""What a setting says where the machine chooses."""
IMAGES = Form(_images, f"a whole number or {AUTO}")
"""How many at once."""
MINUTES = Form(_minutes, "minutes, or a time as sbatch takes it, such as 12:00:00 or 1-00:00:00")
"""Whole minutes, rounded up, of minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
days-hours:minutes:seconds."""
FOLDER = Form(_folder, "a path, in which ~/ and ~user/ are home folders")
"""A path or URL."""


def filled(kind: Callable[..., T], values: Mapping[str, object]) -> T:
    """A `kind` of values that were looked at before: each is of the type that its field has."""
    return kind(**values)


def as_type(written: Raw, kind: str, form: Form | None) -> object:
    """The value of a setting whose type is `kind`, as schema.py writes it. Raises ValueError where it is of another."""
    if kind == ANY:
        kinds = [*_READERS, "None"]
        return (
            [_scalar(w, kinds, None) for w in written] if isinstance(written, list) else _scalar(written, kinds, None)
        )
    kinds = kind.split(" | ")
    if isinstance(written, list):
        for kind in kinds:
            many, _, one = kind.rstrip("]").partition("[")
            if many == "list":
                return [_scalar(word, [one], None) for word in written]
            if many == "tuple" and len(written) == len(ones := one.split(", ")):
                return tuple(_scalar(word, [one], None) for word, one in zip(written, ones, strict=True))
        raise ValueError(written)
    return _scalar(written, kinds, form)


def looks(text: str) -> object:
    """What a text without quotes is where any type will do; itself where that is a text, or where it cannot be one."""
    try:
        return as_type(Word(text), ANY, None)
    except ValueError:
        return text


def _scalar(word: Word, kinds: list[str], form: Form | None) -> object:
    text = word.text
    if not word.quoted and text in NULL:
        # A path ~ is null to YAML and the home folder to everybody else.
        if "None" in kinds and not (text == "~" and form is FOLDER):
            return None
        raise ValueError(text)
    if form is not None:
        return form.read(_text(text))
    for kind, read in _READERS.items():
        if kind in kinds and (kind == "str" or not (word.quoted and "str" in kinds)):
            try:
                return read(text)
            except (ValueError, OverflowError):
                continue
    raise ValueError(text)


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "yes", "on", "false", "no", "off"):
        raise ValueError(text)
    return text.lower() in ("true", "yes", "on")


def _int(text: str) -> int:
    if not text.isascii():
        raise ValueError(text)
    return int(text, 0)  # as Python writes it: 1_000, 0x10; 010 is refused, which is 8 to some and 10 to others


def _float(text: str) -> float:
    try:
        return float(_int(text))
    except ValueError:
        if not text.isascii() or re.match(r"[-+]?0[0-9_]", text):
            raise
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError(text)
    text.encode()  # no names that are not UTF-8: they could not be written down
    return text


_READERS: dict[str, Callable[[str], object]] = {"bool": _bool, "int": _int, "float": _float, "str": _text}
