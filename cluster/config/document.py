"""YAML files and the values of the command line as trees of words: what is plain and what is quoted stay apart."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tdformer.errors import first_line

from ..errors import RunError
from .values import LISTS, NULL, TEXTS, Raw, Word, looks
from .words import show

LARGEST_FILE = 2**20


class _Loader(yaml.BaseLoader):
    """Tells what stands plain from what is quoted, and guesses no type."""

    PLAIN = "plain"

    def resolve(self, kind: type[yaml.Node], value: object, implicit: tuple[bool, bool]) -> str:
        plain = kind is yaml.ScalarNode and implicit[0]
        return self.PLAIN if plain else str(super().resolve(kind, value, implicit))


_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the loader is Python's: it may nest deeply


class _Dumper(_SafeDumper):
    """Quotes what would be read as another thing."""


class _Quoted(str):
    """A text that looks like a number to us, and not to YAML 1.1."""


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="'")
)
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


def file_text(path: Path, others: Callable[[Path], str] = lambda path: "") -> str:
    """The content of a configuration file. Raises RunError where there is none; others: the end of that line."""
    try:
        about = path.stat()  # before it is opened: a pipe would wait for its writer
        if not stat.S_ISREG(about.st_mode):
            raise RunError(f"{path}: cannot be read (it is not a file)")
        if about.st_size > LARGEST_FILE:
            raise RunError(f"{path}: cannot be read ({about.st_size:,} bytes are no configuration)")
        text = path.read_text("utf-8-sig")
    except FileNotFoundError as e:
        raise RunError(f"{path}: no such configuration file{others(path)}") from e
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
    if kind in TEXTS:
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


def is_null(node: yaml.Node) -> bool:
    """Whether `null`, `~` or nothing stands there."""
    return node.tag == _Loader.PLAIN and node.value in NULL


def words(written: Raw) -> str | list[str]:
    """The texts alone."""
    return [word.text for word in written] if isinstance(written, list) else written.text


def refers(written: Raw) -> bool:
    """Whether something in it is `${...}`."""
    return "${" in "".join(words(written))


def resolved(tree: dict[str, object], key: str, kind: str) -> Raw:
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


def _native(value: object, kind: str) -> Word:
    if value is None:
        return Word("null")
    if isinstance(value, str):
        return Word(value, quoted=kind in TEXTS or kind in LISTS)
    if not isinstance(value, (bool, int, float)):
        raise ValueError(show(value))
    return Word(str(value))


def dump(tree: object) -> str:
    """Nested settings as YAML that reads as the same, with or without `refers` resolved."""
    text: str = yaml.dump(_escaped(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _escaped(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _escaped(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escaped(v) for v in value]
    if not isinstance(value, str):
        return value
    # As OmegaConf wants it: \${ is ${, and backslashes before that are doubled.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return _Quoted(text) if looks(text) not in (None, text) else text


def unescaped(written: Raw) -> Raw:
    """What `dump` was given, with each `${...}` as it stands."""
    if isinstance(written, list):
        return [_unescaped(word) for word in written]
    return _unescaped(written)


def _unescaped(word: Word) -> Word:
    text = re.sub(r"(\\*)\$\{", lambda match: match[1][: len(match[1]) // 2] + "${", word.text)
    return word._replace(text=text)
