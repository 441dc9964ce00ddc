"""What we wrote in a folder of shards. Nothing else is ever overwritten, renamed or removed.

A folder is ours where an index of ours lies in it (see index.py); its files are the index, the shards that it names, a
copy by FFCV that has its checksums (see beton.py), and what a killed writer of these leaves behind.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ..errors import DataError
from .index import COLUMNS, INDEX, TABLE

COPY = ("digest", "bytes", "stored", "crc32")
"""The arrays beside an FFCV file."""
NOTE = ("inode", "bytes", "changed")
"""The keys of the note that an FFCV file was found whole."""


def facts(folder: Path) -> dict[str, object] | None:
    """What our index in a folder says; {} where it is damaged and only its table tells. None: we did not write it."""
    found = _json(folder / INDEX)
    if found is not None and found.keys() >= {"dataset", "split"} and found.keys() & {"format", "digest"}:
        return found
    return {} if _has_arrays(folder / TABLE, COLUMNS) else None


def check(place: Path, split: str) -> None:
    """Raises DataError, naming what is in the way, unless `place` is wholly ours, empty or not there."""
    if place.is_symlink():
        raise DataError(f"{place} is a link, which is not replaced; name the folder that it leads into")
    if not place.exists():
        return
    if not place.is_dir():
        raise DataError(f"{place} is a file that tdformer did not write; move it away, or name another folder")
    try:
        other = sorted({path.name for path in place.iterdir()} - names(place, split))
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror}); name another folder") from error
    if other:
        what = f"{other[0]}{f' and {len(other) - 1} more' if other[1:] else ''}"
        raise DataError(f"{place} holds {what}, not written by tdformer; move it away, or name another folder")


def remove(folder: Path, split: str) -> None:
    """Remove what is ours in a folder, and the folder if nothing else is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in names(folder, split):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def names(folder: Path, split: str) -> set[str]:
    """The names of those files in a folder that are ours."""
    index = facts(folder)
    if index is None:
        return set()
    found = {path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
    if isinstance(listed := index.get("shards"), list):
        shards = {str(shard.get("name")) for shard in listed if isinstance(shard, dict)}
    else:  # damaged, or still being written
        shards = {name for name in found if re.fullmatch(rf"{re.escape(split)}-\d{{6,}}\.(tar|npz)", name)}
    copy = f"{split}.beton"
    mine = {INDEX, TABLE, *shards, *(path.name for path in unfinished(folder, split))}
    if has_copy(folder / copy):
        mine |= {copy, f"{copy}.npz"}
    if is_note(folder / f".{copy}.whole"):
        mine.add(f".{copy}.whole")
    return found & mine


def unfinished(folder: Path, split: str) -> list[Path]:
    """What a killed writer of an FFCV file left in a folder of shards."""
    name = re.compile(rf"\.{re.escape(split)}\.beton\.(whole\.)?[0-9a-f]{{8}}\.tmp(\.npz)?")
    return [path for path in folder.iterdir() if name.fullmatch(path.name) and path.is_file()]


def has_copy(beton: Path) -> bool:
    """Whether the checksums beside an FFCV file are ours, and so the file."""
    return _has_arrays(beton.with_name(f"{beton.name}.npz"), COPY)


def is_note(path: Path) -> bool:
    """Whether a file is our note that an FFCV file was found whole."""
    found = _json(path)
    return found is not None and found.keys() == set(NOTE)


def _json(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _has_arrays(path: Path, keys: Iterable[str]) -> bool:
    if not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:  # which reads the list of names alone
            return {f"{key}.npy" for key in keys} <= set(archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
