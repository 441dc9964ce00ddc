"""How something is added by name from outside: data sets, and kinds of samples."""

from __future__ import annotations

import difflib
from typing import Generic, Protocol, TypeVar

from .errors import DataError


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Things by name. what: what they are, for messages."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._known: dict[str, T] = {}

    def register(self, thing: T) -> T:
        """Make a thing known by its name; gives it back. Raises DataError where that is the name of another."""
        if self._known.setdefault(thing.name, thing) != thing:
            raise DataError(f"{self.what} {thing.name!r} is there already; give yours another name")
        return thing

    def get(self, name: str) -> T:
        """Raises DataError for a name that is not there, with the nearest."""
        if name not in self._known:
            near = difflib.get_close_matches(name, self._known, 1) or self.names()
            raise DataError(f"{self.what} {name!r} is unknown; did you mean {' or '.join(near)}?")
        return self._known[name]

    def names(self) -> list[str]:
        """In the order in which they came."""
        return list(self._known)
