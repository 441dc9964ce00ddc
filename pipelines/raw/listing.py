"""What lies in a folder of classes: what is read, what is passed over, and why."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HIDDEN = "hidden, or left by a system"
FORMAT = "of another format"
STRAY = "outside the classes' folders"
SPECIAL = "no regular files (a pipe, socket or device)"
LOOP = "links back to a folder that holds them"
_LEFT = {"__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini"}
"""What systems leave beside files of a user; names with a dot are left out too."""


class Skipped:
    """Files and folders that are not read: how many for each reason, and the first of them."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.first: dict[str, str] = {}

    def add(self, reason: str, path: str | Path) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, str(path))

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {reason} ({self.first[reason]})" for reason, count in self.counts.items())

    def __bool__(self) -> bool:
        return bool(self.counts)


def class_folders(folder: Path, skipped: Skipped | None = None) -> tuple[str, ...]:
    """The names of the classes in a split's folder, sorted. Raises OSError where it cannot be read."""
    skipped, found = Skipped() if skipped is None else skipped, []
    for entry in _entries(folder):
        if _is_left(entry.name):
            skipped.add(HIDDEN, entry.path)
        elif not os.path.isdir(entry):
            skipped.add(STRAY, entry.path)
        elif _leads_up(entry, [folder]):
            skipped.add(LOOP, entry.path)
        else:
            found.append(entry.name)
    return tuple(sorted(found))


def listed(
    folder: Path, classes: Sequence[str], suffixes: Collection[str], skipped: Skipped | None = None
) -> tuple[NDArray[np.bytes_], NDArray[np.int32]]:
    """Names below FOLDER/CLASS, and labels, of the files with one of `suffixes`, at any depth, by class and name;
    compact, because they may be millions. Raises OSError where a folder cannot be read."""
    skipped = Skipped() if skipped is None else skipped
    names = [_named(folder / name, suffixes, skipped) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(of) for of in names])
    return np.concatenate([np.array([], np.bytes_), *names]), labels


def _named(folder: Path, suffixes: Collection[str], skipped: Skipped) -> NDArray[np.bytes_]:
    found = _walk(folder, suffixes, skipped) if folder.is_dir() else ()
    return np.array(sorted(os.fsencode(path)[len(os.fsencode(folder)) + 1 :] for path in found), np.bytes_)


def _walk(folder: Path, suffixes: Collection[str], skipped: Skipped) -> Iterator[str]:
    todo: list[list[str]] = [[str(folder)]]  # each a folder, after those that it is in
    while todo:
        above = todo.pop()
        for entry in _entries(above[-1]):
            if _is_left(entry.name):
                skipped.add(HIDDEN, entry.path)
            elif entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry)):
                if _leads_up(entry, above):
                    skipped.add(LOOP, entry.path)
                else:
                    todo.append([*above, entry.path])
            elif os.path.splitext(entry.name)[1].lower() not in suffixes:
                skipped.add(FORMAT, entry.path)
            elif entry.is_file(follow_symlinks=False) or os.path.isfile(entry) or not os.path.exists(entry):
                yield entry.path  # also a link that leads nowhere: whoever reads it says so
            else:
                skipped.add(SPECIAL, entry.path)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as scan:
        return sorted(scan, key=lambda entry: os.fsencode(entry.name))


def _is_left(name: str) -> bool:
    return name.startswith(".") or name in _LEFT


def _leads_up(entry: os.DirEntry[str], above: Sequence[str | Path]) -> bool:
    """Whether a link leads to one of the folders on the way to it, or to what holds one."""
    if not entry.is_symlink():
        return False
    real = Path(os.path.realpath(entry))
    return any(Path(os.path.realpath(place)).is_relative_to(real) for place in above)
