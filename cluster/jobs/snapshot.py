"""The code that a job runs: a copy in its folder, taken when it is launched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import RunError
from ..run.kept import Revision
from ..run.provenance import PACKAGES, REVISION, revision
from ..run.records import record


def check(folder: Path) -> None:
    """Raises RunError where something is in the place of a folder's snapshot that is none."""
    for place in _places(folder):
        _check(place)


def _places(folder: Path) -> tuple[Path, Path]:
    """Where a snapshot of the code is, and where it is made."""
    return folder / "code", folder / ".code.tmp"


def _check(place: Path) -> None:
    if place.is_symlink() or place.exists():
        folder = place.is_dir() and not place.is_symlink()
        names = {path.name for path in place.iterdir()} if folder else {""}
        # An empty folder is one whose making was killed, or nobody's loss.
        told = record(place / REVISION, "move it away", Revision, "plugins") if REVISION in names else None
        shipped = (told or {}).get("plugins")
        if names and (REVISION not in names or names - {REVISION, *PACKAGES, *(shipped or ()), "__pycache__"}):
            raise RunError(f"{place} is no snapshot of the code that tdformer took; move it away, or set name=...")


def take(folder: Path, plugins: Sequence[Path] = ()) -> None:
    """Copy the code that is running, and that of plugins, into a run's or study's folder, so that a later start runs
    the same."""
    here = Path(__file__).resolve().parents[2]
    place, fresh = _places(folder)
    if here == place.resolve():
        return
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    kept = {"plugins": sorted({plugin.name for plugin in plugins})} if plugins else {}
    (fresh / REVISION).write_text(json.dumps({k: v for k, v in revision().items() if k != "plugins"} | kept))
    for package in PACKAGES:
        shutil.copytree(here / package, fresh / package)
    for plugin in {plugin.name: plugin for plugin in plugins}.values():
        if plugin.is_dir():
            shutil.copytree(plugin, fresh / plugin.name, ignore=shutil.ignore_patterns("__pycache__", ".git"))
        else:
            shutil.copy(plugin, fresh / plugin.name)
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
