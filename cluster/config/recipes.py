"""The recipes that come with us, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
"""In the tree a link to configs/, in a wheel its files."""
STUDIES = RECIPES / "studies"
"""The studies that come with us, which are no recipes."""


def recipe(path: str | Path) -> Path:
    """The file of our recipe, where `path` is the name of one; any other path, or one that exists, as it is."""
    there = os.path.exists(path) and not os.path.isdir(path)  # False where pathlib raises: for a name that is too long
    return Path(path) if there else ours(path) or Path(path)


def ours(name: str | Path) -> Path | None:
    """The file of that name that comes with us, recipe or base of recipes."""
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts
    file = RECIPES / f"{Path(name)}.yaml"
    return file if inside and os.path.isfile(file) else None


def recipes() -> dict[str, Path]:
    """Name, such as quickstart or imagenet/hst_10_768, and file of each. A file whose name begins with _ is none: it
    holds what others build on."""
    files = [path for path in RECIPES.rglob("*.yaml") if path.name[0] != "_" and STUDIES not in path.parents]
    names = [path.relative_to(RECIPES).with_suffix("") for path in files]
    return {str(name): RECIPES / f"{name}.yaml" for name in sorted(names, key=lambda name: (len(name.parts), name))}


def like(path: Path) -> str:
    """The end of a line: recipes and folders of them whose names are near; of a word that is near none, all."""
    known = list(recipes())
    folders = [f"{folder}/..." for folder in dict.fromkeys(name.rpartition("/")[0] for name in known) if folder]
    last = {name.removesuffix("/...").rpartition("/")[2]: name for name in [*folders, *known]}
    near = [last[word] for word in difflib.get_close_matches(path.stem, last)]
    if not near and len(path.parts) == 1:
        near = [*(name for name in known if "/" not in name), *folders]
    return f"; recipes: {', '.join(near)}" if near else ""
