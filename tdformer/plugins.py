"""Choices by name that can be added to from outside: a file that registers something, once imported, has added it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from .errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    origin: str


class Registry(Generic[T]):
    """Things of one kind by name, in order of registration. kind: what a message calls one, such as "optimizer"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, _Entry[T]] = {}

    @overload
    def register(self, name: str) -> Callable[[T], T]: ...

    @overload
    def register(self, name: str, value: T) -> T: ...

    def register(self, name: str, value: T | None = None) -> T | Callable[[T], T]:
        """Add something under `name`: `register(name, value)`, or `@register(name)` above a class or a function.

        The module that calls this is the entry's origin. Raises ModelError where the name is taken by something else;
        a module that is loaded again may register its own again.
        """
        origin = str(sys._getframe(1).f_globals.get("__name__", "?"))

        def add(value: T) -> T:
            known = self._entries.get(name)
            if known is not None and not _same(known, _Entry(value, origin)):
                raise ModelError(
                    f"{self.kind} {name!r} of {origin} is there already, from {known.origin}; choose another name"
                )
            self._entries[name] = _Entry(value, origin)
            return value

        return add if value is None else add(value)

    def get(self, name: str) -> T:
        """What `name` stands for. Raises ModelError, with the nearest name, where nothing does."""
        return self._entry(name).value

    def origin(self, name: str) -> str:
        """The module that registered it. Raises ModelError as `get`."""
        return self._entry(name).origin

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, name: str) -> _Entry[T]:
        if name not in self._entries:
            near = difflib.get_close_matches(str(name), self._entries, 1)
            known = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(self._entries) or 'none yet'}"
            raise ModelError(f"{self.kind} {name!r} is unknown; {known}")
        return self._entries[name]


def _same(known: _Entry[T], new: _Entry[T]) -> bool:
    """Whether two entries are one thing: equal, or made by the same lines of a module that was loaded twice."""
    names = [getattr(entry.value, "__qualname__", None) for entry in (known, new)]
    return bool(known.value == new.value) or (
        known.origin == new.origin and names[0] is not None and names[0] == names[1]
    )
