"""Layers of settings, of which a later one wins: from YAML, from the command line; and `${...}` in them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from pipelines.remote import masked

from ..errors import RunError
from . import document, values
from .schema import RETIRED, Config, is_open, type_of, types
from .values import Raw
from .words import expected, nearest, show

Layer = Mapping[str, object]
"""Settings by key, each read by its type; or what is to be resolved when all are there."""
TYPED = "command line"
"""Where an override stands, in messages."""
BASE = "base"
"""No setting: in a file, what the rest of it is laid over."""


@dataclass(frozen=True)
class _Reference:
    """A setting with `${...}`, to be read when all others are."""

    written: Raw
    where: str


def merged(layers: Iterable[Layer]) -> Config:
    """The defaults with each layer's settings, of which a later one wins; not checked."""
    config, given = Config(), {name: value for layer in layers for name, value in layer.items()}
    references = {name: value for name, value in given.items() if isinstance(value, _Reference)}
    for name, value in given.items():
        if name not in references:
            _set(config, name, value)
    if references:
        tree = asdict(config)
        for name, reference in references.items():
            *sections, last = name.split(".")
            functools.reduce(dict.__getitem__, sections, tree)[last] = document.words(reference.written)
        for name, reference in references.items():
            with _expecting(name, reference.where, document.words(reference.written)):
                value = document.resolved(tree, name, type_of(name)[0])
                _set(config, name, _value(name, value))
    return config


def _set(config: Config, name: str, value: object) -> None:
    *sections, last = name.split(".")
    section: object = functools.reduce(getattr, sections, config)
    if isinstance(section, dict):
        section[last] = value
    else:
        setattr(section, last, value)


def of_override(given: str) -> Layer:
    """The settings of one `key=value`, whose key may be a section."""
    value = given.partition("=")[2].strip()
    named = _typed(given)
    return {name: _read(name, node, TYPED, shown=value if whole else node) for name, node, whole in named}


def _typed(given: str) -> Iterator[tuple[str, yaml.Node, bool]]:
    """The settings of one `key=value`, what stands for each, and whether that is the whole value."""
    key, equals, value = given.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RunError(f"{masked(given)!r} is not an override; write key=value, for example train.epochs=2")
    node = document.argument(value, types()[key][0] if key in types() else "", repr(masked(given)))
    for name, part in _named(key, node, TYPED, set()):
        yield name, part, part is node


def of_node(key: str, node: yaml.Node, where: str) -> dict[str, Raw]:
    """What is written for each setting that `node` gives, for the key or section `key` ("": all of them), once it was
    read by its type. Raises RunError, with the nearest setting, for a key that is none, and for a value of another
    type."""
    named = list(_named(key, node, where, set()))
    for name, part in named:
        _read(name, part, where)
    return {name: document.raw(part, where) for name, part in named}


def of_document(text: str, where: str, section: str = "", literal: bool = False) -> Layer:
    """The settings in a YAML document, whose keys may be nested or dotted. literal: nothing is resolved."""
    root = _root(text, where)
    named = _named(section, root, where, set(), literal)
    return {name: _read(name, node, where, literal) for name, node in named}


def of_file(text: str, where: str) -> tuple[Layer, yaml.ScalarNode | None]:
    """The settings in a file that may build on another one, and what it says of that."""
    root = _root(text, where)
    bases = [pair for pair in root.value if show(pair[0]) == BASE]
    root.value = [pair for pair in root.value if pair not in bases]
    layer = {name: _read(name, node, where) for name, node in _named("", root, where, set())}
    for key, base in bases:
        document.check_tag(key, where)
        document.check_tag(base, where)
        if not isinstance(base, yaml.ScalarNode) or document.is_null(base) or not base.value or "\0" in base.value:
            raise RunError(f"{where}: {BASE} is {show(base)}; expected the path of a file, or a recipe's name")
    if len(bases) > 1:
        raise RunError(f"{where}, line {bases[1][0].start_mark.line + 1}: {BASE} is set twice; keep one")
    return layer, bases[0][1] if bases else None


def _root(text: str, where: str) -> yaml.MappingNode:
    root = document.compose(text, where)
    if root is None:  # nothing but comments
        return yaml.MappingNode(yaml.Loader.DEFAULT_MAPPING_TAG, [])
    if not isinstance(root, yaml.MappingNode):
        raise RunError(f"{where}: a configuration is a mapping of keys to values")
    return root


def of_site(file: Path | None) -> Layer:
    """The keys of the section `site` in a file; without one, none."""
    return {} if file is None else of_document(document.file_text(file), str(file), "site")


def named(overrides: Sequence[str], site: Path | None = None) -> list[str]:
    """The settings that `key=value` words and the file of a site give, in the order of the configuration, in which an
    open section is one. Raises RunError for a word that names none."""
    given = {*of_site(site), *(name for word in overrides for name, *_ in _typed(word))}
    given |= {name.rpartition(".")[0] for name in given}
    return [name for name in types() if name in given]


def _named(
    name: str, node: yaml.Node, where: str, seen: set[str], stored: bool = False
) -> Iterator[tuple[str, yaml.Node]]:
    """The settings below the key `name`, each with what stands there."""
    known = types()
    if name in RETIRED:
        if not stored:
            raise RunError(f"{where}: {name} is no setting any more; {RETIRED[name]}")
        return
    if name == BASE:
        raise RunError(f"{where}: {BASE} is of a file that is given as CONFIG: what the rest of it is laid over")
    section = not name or is_open(name) or any(k.startswith(name + ".") for k in known)
    if not section and name not in known and not is_open(name.rpartition(".")[0]):
        raise RunError(f"{where}: {show(name)} is not a setting; the nearest is {nearest(name, [*known])}")
    if name in seen:
        line = f", line {node.start_mark.line + 1}" if node.start_mark else ""
        raise RunError(f"{where}{line}: {name} is set twice; keep one")
    seen.add(name)
    if not section:
        yield name, node
    elif isinstance(node, yaml.MappingNode):
        document.check_tag(node, where)
        for key, value in node.value:
            document.check_tag(key, where)
            inner = show(key)
            yield from _named(f"{name}.{inner}" if name else inner, value, where, seen, stored)
    elif not document.is_null(node):  # an empty section is one without settings
        inner = f"{name}.OPTION" if is_open(name) else _first(known, name)
        raise RunError(f"{where}: {name} is a section; set one of its keys, like {inner}")


def _read(name: str, node: yaml.Node, where: str, literal: bool = False, shown: object = None) -> object:
    with _expecting(name, where, node if shown is None else shown):
        written = document.raw(node, where)
        if not literal and document.refers(written):
            return _Reference(written, where)
        return _value(name, document.unescaped(written) if literal else written)


def _value(name: str, written: Raw) -> object:
    return values.as_type(written, *type_of(name))


@contextmanager
def _expecting(name: str, where: str, written: object) -> Iterator[None]:
    """A ValueError means that what is written for a setting is of another type."""
    try:
        yield
    except ValueError as e:
        raise RunError(f"{where}: {name} is {show(written)}; expected {expected(*type_of(name))}") from e


def _first(keys: Mapping[str, object], section: str) -> str:
    return next(k for k in keys if k.startswith(section + "."))
