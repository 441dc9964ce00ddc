"""Names of a package that are imported when they are asked for, because what they need takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module


def offered(package: str, places: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """The `__getattr__` of a package: names by the module of it that has them."""
    place = {name: module for module, names in places.items() for name in names}

    def get(name: str) -> object:
        if name not in place:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{place[name]}", package), name)

    return get
