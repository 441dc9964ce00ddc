"""Configuration files that say only how they differ from another one, their base."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RunError
from . import document, recipes
from .layers import Layer, of_file
from .words import show


def with_bases(path: Path) -> list[tuple[Path, Layer]]:
    """A file and the settings in it, and before it its base, before that the base's base, and so on.

    A base is written as a path from the file that names it, or as a recipe's name. Raises RunError, with the place
    that names it, for one that is not there or builds on a file that builds on it.
    """
    found: list[tuple[Path, Layer]] = []
    passed, place = set(), ""
    while True:
        try:
            text = document.file_text(path, recipes.like)
        except RunError as error:
            raise RunError(f"{place}{error}") from error
        passed.add(os.path.realpath(path))
        layer, base = of_file(text, str(path))
        found.insert(0, (path, layer))
        if base is None:
            return found
        named = f"{path}, line {base.start_mark.line + 1}: base is {show(base)}"
        path, place = _beside(path, base.value), f"{named}; "
        if os.path.realpath(path) in passed:
            raise RunError(f"{named}, and {path} builds on this file; leave one of the two out")


def _beside(path: Path, base: str) -> Path:
    beside = path.parent / os.path.expanduser(base)
    return beside if os.path.isfile(beside) else recipes.ours(base) or beside
