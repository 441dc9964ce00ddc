"""What the YAML of a report says of one figure or fit, as a dataclass whose fields are its keys."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import NoneType
from typing import TYPE_CHECKING, Literal, TypeVar

from ..config.values import filled
from ..config.words import either, nearest, show
from ..errors import RunError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_KINDS: dict[object, tuple[Callable[[object], bool], str]] = {
    str: (lambda v: isinstance(v, str), "text"),
    bool: (lambda v: isinstance(v, bool), "true or false"),
    int: (lambda v: type(v) is int, "a whole number"),
    float: (lambda v: isinstance(v, int | float) and type(v) is not bool and math.isfinite(v), "a number"),
    tuple[str, ...]: (lambda v: _all(v, lambda one: isinstance(one, str)), "a column, or a list of them"),
    tuple[int, ...]: (lambda v: _all(v, lambda one: type(one) is int and one > 0), "whole numbers above 0"),
    Mapping: (lambda v: isinstance(v, Mapping), "values by column"),
}
"""By the type of a field, of which there are no others: whether a value can be one, and what to say where it cannot."""


def _all(values: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(values, tuple) and all(map(fits, values))


def read(kind: type[T], given: Mapping[str, object], where: str) -> T:
    """Raises RunError, in one line that begins with `where`, for a key that is none, a value of another type or that
    cannot be (a ValueError of the dataclass), and a field without a default that is not given."""
    types, known = typing.get_type_hints(kind), {field.name: field for field in fields(kind)}
    values: dict[str, object] = {}
    for key, value in given.items():
        if key not in known:
            near = nearest(str(key), list(known))
            raise RunError(f"{where}: no key {show(key)}; did you mean {near}? There are {', '.join(known)}")
        values[key] = _value(types[key], value, f"{where}: {key}")
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if values.get(name) in (None, "", ())]:
        raise RunError(f"{where}: {either(missing)} is missing")
    try:
        return filled(kind, values)
    except ValueError as error:
        raise RunError(f"{where}: {error}") from None


def _value(kind: object, value: object, place: str) -> object:
    """place: its key, as messages begin. A list of one may be written without brackets."""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise RunError(f"{place} is {show(value)}; choose {either([show(choice) for choice in choices])}")
        return value
    if NoneType in (kinds := typing.get_args(kind)):
        if value is None:
            return None
        [kind] = (one for one in kinds if one is not NoneType)
    origin = typing.get_origin(kind)
    read = value if origin is not tuple else tuple(value) if isinstance(value, list) else (value,)
    fits, words = _KINDS[Mapping if isinstance(origin, type) and issubclass(origin, Mapping) else kind]
    if not fits(read):
        raise RunError(f"{place} is {show(value)}; it takes {words}")
    return read
