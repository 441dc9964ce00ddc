"""What people write, in YAML and on the command line, read by the type of the setting: a text stays as it was typed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipelines.remote import masked

from ..errors import RunError

LARGEST_FILE = 2**20
_NULL = ("", "~", "null", "Null", "NULL")
_TEXTS, _LISTS = ("str", "str | None"), ("list[str]", "list[str] | None")
_SHOWN = 80
"""Characters of a value in a message."""


class Word(NamedTuple):
    """A scalar. quoted: it is a text, whatever it looks like."""

    text: str
    quoted: bool = False


Raw = Word | list[Word]


class Form(NamedTuple):
    """How a text becomes a value where the type does not say it; `read` raises ValueError. words: for messages."""

    read: Callable[[str], Any]
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


MINUTES = Form(_minutes, "minutes, or a time as sbatch takes it, such as 12:00:00 or 1-00:00:00")
"""Whole minutes, rounded up, of minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or
days-hours:minutes:seconds."""
FOLDER = Form(_folder, "a path, in which ~/ and ~user/ are home folders")
"""A path or URL."""


class _Loader(yaml.BaseLoader):
    """Tells what stands plain from what is quoted, and guesses no type."""

    PLAIN = "plain"

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        plain = kind is yaml.ScalarNode and implicit[0]
        return self.PLAIN if plain else str(super().resolve(kind, value, implicit))


_Dumper: Any = getattr(
    yaml, "CSafeDumper", yaml.SafeDumper
)  # the loader is Python's: nesting may not overflow C's stack
_TAGS = (_Loader.PLAIN, _Loader.DEFAULT_SCALAR_TAG, _Loader.DEFAULT_SEQUENCE_TAG, _Loader.DEFAULT_MAPPING_TAG)


def compose(text: str, where: str) -> yaml.Node | None:
    """The tree of a YAML document; no value in it is read yet, and no tag ever makes an object. Raises RunError."""
    try:
        return yaml.compose(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}" if mark and "\n" in text else where
        reason = getattr(e, "problem", None) or getattr(e, "reason", None) or first_line(e)
        raise RunError(f"{place}: not valid YAML ({reason})") from e
    except RecursionError as e:
        raise RunError(f"{where}: not valid YAML (nested too deeply)") from e


def file_text(path: Path, others: str = "") -> str:
    """The content of a configuration file. Raises RunError where there is none; others: the end of that line."""
    try:
        about = path.stat()  # before it is opened: a pipe would wait for its writer
        if not stat.S_ISREG(about.st_mode):
            raise RunError(f"{path}: cannot be read (it is not a file)")
        if about.st_size > LARGEST_FILE:
            raise RunError(f"{path}: cannot be read ({about.st_size:,} bytes are no configuration)")
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as e:
        raise RunError(f"{path}: no such configuration file{others}") from e
    except UnicodeDecodeError as e:
        raise RunError(f"{path}: cannot be read (byte {e.start} is not UTF-8)") from e
    except (OSError, ValueError) as e:
        raise RunError(f"{path}: cannot be read ({first_line(e)})") from e
    if not text.strip():
        raise RunError(f"{path}: the file is empty; name at least the settings that differ from the defaults")
    return text


def argument(text: str, kind: str, where: str) -> yaml.Node:
    """A value of the command line. A text needs no quotes there: it is what was typed, unless all of it is quoted.
    Raises RunError for what is no YAML where a text will not do."""
    if kind in _TEXTS:
        try:
            quoted = compose(text, where) if text[:1] in ("'", '"') else None
        except RunError:
            quoted = None
        return quoted if isinstance(quoted, yaml.ScalarNode) else yaml.ScalarNode(_Loader.PLAIN, text)
    return compose(text, where) or yaml.ScalarNode(_Loader.PLAIN, "")


def check_tag(node: yaml.Node, where: str) -> None:
    """Raises RunError for a tag that asks for more than text, a list or a mapping."""
    if node.tag not in _TAGS:
        raise RunError(f"{where}: {show(node.tag)} is a YAML tag, and settings need none; leave it out")


def raw(node: yaml.Node, where: str) -> Raw:
    """What stands there. Raises ValueError where it is neither a scalar nor a list of them, RunError for a tag."""
    check_tag(node, where)
    if isinstance(node, yaml.ScalarNode):
        return Word(node.value, node.tag != _Loader.PLAIN)
    words = [raw(entry, where) for entry in node.value if isinstance(entry, yaml.ScalarNode)]
    if not isinstance(node, yaml.SequenceNode) or len(words) != len(node.value):
        raise ValueError(node)
    return [word for word in words if isinstance(word, Word)]


def as_type(written: Raw, kind: str, form: Form | None) -> Any:
    """The value of a setting whose type is `kind`, as config.py writes it. Raises ValueError where it is of another."""
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


def is_null(node: yaml.Node) -> bool:
    """Whether `null`, `~` or nothing stands there."""
    return node.tag == _Loader.PLAIN and node.value in _NULL


def _scalar(word: Word, kinds: list[str], form: Form | None) -> Any:
    text = word.text
    if not word.quoted and text in _NULL:
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


_READERS: dict[str, Callable[[str], Any]] = {"bool": _bool, "int": _int, "float": _float, "str": _text}


def words(written: Raw) -> str | list[str]:
    """The texts alone."""
    return [word.text for word in written] if isinstance(written, list) else written.text


def refers(written: Raw) -> bool:
    """Whether something in it is `${...}`."""
    return "${" in "".join(words(written))


def resolved(tree: Any, key: str, kind: str) -> Raw:
    """The value of `key` in `tree`, the settings as nested dicts, with each `${...}` in it replaced. Raises RunError
    where one refers to nothing, ValueError where to a section."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.select(OmegaConf.create(tree), key)
        found = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except (OmegaConfBaseException, RecursionError) as e:
        raise RunError(f"{key}: {first_line(e)}") from e
    if isinstance(found, (list, tuple)):
        return [_native(value, kind) for value in found]
    return _native(found, kind)


def _native(value: Any, kind: str) -> Word:
    if value is None:
        return Word("null")
    if isinstance(value, str):
        return Word(value, quoted=kind in _TEXTS or kind in _LISTS)
    if not isinstance(value, (bool, int, float)):
        raise ValueError(show(value))
    return Word(str(value))


def dump(tree: Any) -> str:
    """Nested settings as YAML that reads as the same, with or without `refers` resolved."""
    return yaml.dump(_escaped(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _escaped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _escaped(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(v) for v in value]
    # As OmegaConf wants it: \${ is ${, and backslashes before that are doubled.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def unescaped(written: Raw) -> Raw:
    """What `dump` was given, with each `${...}` as it stands."""
    if isinstance(written, list):
        return [_unescaped(word) for word in written]
    return _unescaped(written)


def _unescaped(word: Word) -> Word:
    text = re.sub(r"(\\*)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", word.text)
    return word._replace(text=text)


def show(value: Any) -> str:
    """A value, or what was written for one, on one short line without a URL's secrets."""
    shown = "".join(islice(_pieces(value), _SHOWN))
    shown = " ".join((shown[: _SHOWN - 3] + "..." if len(shown) > _SHOWN else shown).split()) or "empty"
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode()


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, yaml.MappingNode | yaml.SequenceNode):
        mapping = isinstance(value, yaml.MappingNode)
        yield "{" if mapping else "["
        for i, entry in enumerate(value.value):
            yield ", " if i else ""
            if mapping:
                yield from _pieces(entry[0])
                yield ": "
            yield from _pieces(entry[1] if mapping else entry)
        yield "}" if mapping else "]"
    elif isinstance(value, (list, tuple)):
        yield f"[{', '.join(show(v) for v in value)}]"
    elif isinstance(value, yaml.ScalarNode):
        yield masked(value.value)
    else:
        yield "null" if value is None else str(value).lower() if isinstance(value, bool) else masked(str(value))


def first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


def either(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]
