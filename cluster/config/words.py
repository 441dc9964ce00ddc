"""Values and choices in the words of a message."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import islice

import yaml

from pipelines.remote import masked

from .values import ANY, Form

_SHOWN = 80
"""Characters of a value in a message."""


def show(value: object) -> str:
    """A value, or what was written for one, on one short line without a URL's secrets."""
    shown = " ".join("".join(islice(_pieces(value), _SHOWN)).split()) or "empty"
    if len(shown) > _SHOWN:  # without its middle: of a path, the end says most
        shown = f"{shown[: _SHOWN // 2 - 3]}...{shown[-_SHOWN // 2 :]}"
    return shown if shown.isprintable() else shown.encode("unicode_escape").decode()


def _pieces(value: object) -> Iterator[str]:
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
    elif isinstance(value, Mapping):
        yield f"{{{', '.join(f'{show(key)}: {show(v)}' for key, v in value.items())}}}"
    else:
        yield "null" if value is None else str(value).lower() if isinstance(value, bool) else masked(str(value))


def either(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " or " + items[-1]


def nearest(name: str, keys: list[str]) -> str:
    """The valid key written most like `name`; its last part counts most, also as a word of it or by its initials."""
    last = name.rpartition(".")[2]
    initials = "".join(word[:1] for word in last.split("_")) if "_" in last else last

    def likeness(key: str) -> float:
        end = key.rpartition(".")[2]
        part = max(_ratio(last, end), _ratio(initials, end), 0.9 * (last in end.split("_")))
        return part + _ratio(name, key)

    return max(keys, key=likeness)


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[str]": "a list of texts",
    "tuple[float, float]": "a list of two numbers",
    "None": "null",
    ANY: "a number, a text, true or false, or a list of these",
}


def expected(kind: str, form: Form | None) -> str:
    kinds = kind.split(" | ")
    return either(list(dict.fromkeys(form.words if form and k != "None" else _WORDS[k] for k in kinds)))
