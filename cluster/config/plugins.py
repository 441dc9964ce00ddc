"""Modules of others that a configuration names: imported before its choices are checked, and shipped with a launch.

An entry of `plugins` is a module's name, or the path of a .py file or of a package's folder. A name is looked for as
Python does, and then beside the configuration. What a module adds is in the registries once it is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

from tdformer.errors import first_line

from ..errors import RunError
from .words import show


def beside(entries: Iterable[str], folder: Path) -> list[str]:
    """The entries with paths as they are from `folder`, in which modules that are found nowhere else may lie."""
    folder = folder.resolve()
    entries = [str(folder / os.path.expanduser(entry)) if _is_path(entry) else entry for entry in entries]
    if entries and str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind all others: it hides none of them
    return entries


def take(entries: Iterable[str], where: str) -> None:
    """Import them. Raises RunError, in one line, for one that is missing or raises."""
    for entry in entries:
        try:
            _imported(entry)
        except RunError as error:
            raise RunError(f"{where}: plugins has {show(entry)}, {error}") from None
        except (Exception, SystemExit) as error:
            top = name_of(entry).partition(".")[0]
            missing = isinstance(error, ModuleNotFoundError) and error.name in (top, name_of(entry))
            remedy = "install it, or give the path of its file" if missing else "mend it, or leave it out"
            raise RunError(
                f"{where}: plugins has {show(entry)}, which cannot be imported ({_reason(error)}); {remedy}"
            ) from error


def name_of(entry: str) -> str:
    """The module's name: what two configurations with the same plugins have in common."""
    return Path(entry).stem if _is_path(entry) else entry


def source(entry: str) -> Path:
    """The file, or the folder of the package, that holds a plugin which is imported; its name is the module's."""
    module = sys.modules[name_of(entry).partition(".")[0]]
    return Path(next(iter(module.__path__)) if hasattr(module, "__path__") else str(module.__file__))


def noted(entries: Sequence[str]) -> dict[str, str]:
    """What plugins that are imported consist of: the SHA-256 digest, cut, of all Python files of each."""
    return {name_of(entry): _digest(source(entry)) for entry in entries}


def _is_path(entry: str) -> bool:
    return entry.endswith(".py") or "/" in entry


def _imported(entry: str) -> ModuleType:
    name = name_of(entry)
    if not _is_path(entry):
        return importlib.import_module(name)
    path = Path(entry)
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise RunError("where no Python file or package is; mend the path")
    if not name.isidentifier():
        raise RunError("which is no module's name; call it by letters, digits and _")
    known = importlib.util.find_spec(name)
    if known is not None:
        if known.origin is None or Path(known.origin).resolve() != file.resolve():
            raise RunError(f"whose name is that of another module ({known.origin or 'a folder'}); call it otherwise")
        return importlib.import_module(name)
    inside = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    assert spec is not None and spec.loader is not None  # of a file that ends with .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _reason(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    at = "" if "importlib" in last.filename else f", {last.filename}, line {last.lineno}"
    return f"{type(error).__name__}: {first_line(error)}{at}"


def _digest(place: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        digest.update(f"{file.relative_to(place)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
