"""Files that are there whole or not at all; and what is said of those that something else has damaged."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Generic, TypeVar, get_origin, get_type_hints

from pipelines import disk

from ..errors import RunError, disk_errors

PATIENCE = 15.0
"""Seconds for a file that another host has just written to come into sight here."""
RESTORE = "restore the file, or start a new run with name=..."
R = TypeVar("R", bound=Mapping[str, object])
T = TypeVar("T")


class Rows(Generic[R]):
    """A JSON-lines file of rows R that is appended to: a row is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash, self._hashed = hashlib.sha256(), 0

    def append(self, row: Mapping[str, object]) -> None:
        """See `to_json` for what becomes of its values."""
        line = (to_json(row) + "\n").encode()
        with disk_errors(self.path):
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                before = os.fstat(fd).st_size
                if before and os.pread(fd, 1, before - 1) != b"\n":  # half a row, of a process that was killed
                    line = b"\n" + line
                try:
                    _write_all(fd, line)
                except OSError:
                    os.ftruncate(fd, before)
                    raise
            finally:
                os.close(fd)

    def read(self, *numbers: str) -> list[R]:
        """All rows, each with a number under these keys; a last line that a killed process left half-written is not
        one. Raises RunError for any other line that is not."""
        rows, damaged = self.whole(*numbers)
        if damaged:
            raise RunError(f"{self.path} is damaged in line {damaged[0]}; {RESTORE}")
        return rows

    def whole(self, *numbers: str) -> tuple[list[R], list[int]]:
        """The rows that are, and the numbers of the lines that are not, from 1."""
        check_file(self.path)
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            lines = []
        except OSError as e:
            raise RunError(f"{self.path} cannot be read ({e.strerror})") from e
        rows = [self._parsed(line, numbers) for line in lines]
        return [row for row in rows if row is not None], [i for i, row in enumerate(rows, 1) if row is None]

    def _parsed(self, line: bytes, numbers: tuple[str, ...]) -> R | None:
        """A row with a number under each of these keys; None: the line is damaged."""
        try:
            row: R = json.loads(line)
        except (ValueError, RecursionError):
            return None
        said: object = row
        if not isinstance(said, dict):
            return None
        sound = all(type(said.get(key)) in (int, float) and _bounded(said[key]) for key in numbers)
        return row if sound else None

    def digest(self) -> str:
        """SHA-256 of all of it, in hexadecimal; what an earlier call has read is not read again."""
        if self.path.exists():
            with disk_errors(self.path), self.path.open("rb") as file:
                file.seek(self._hashed)
                while block := file.read(1 << 20):
                    self._hash.update(block)
                    self._hashed += len(block)
        return self._hash.hexdigest()

    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, size: int, digest: str = "") -> None:
        """Go back to the first `size` bytes: what a run wrote after the checkpoint it goes on from. Raises RunError
        where there are fewer, or where they do not have the `digest` that is given."""
        if self.size() < size:
            raise RunError(
                f"{self.path} has {self.size()} bytes, the checkpoint was written when it had {size}; {RESTORE}"
            )
        if not self.path.exists():
            return
        with disk_errors(self.path):
            with self.path.open("rb") as file:
                self._hash, self._hashed = hashlib.sha256(file.read(size)), size
            if digest and digest != self._hash.hexdigest():
                raise RunError(f"{self.path} is not what it was when the checkpoint was written (SHA-256); {RESTORE}")
            os.truncate(self.path, size)

    def sync(self) -> None:
        """Return when every row is on the disk, and the file's name."""
        if self.path.exists():
            with disk_errors(self.path):
                disk.sync(self.path)
                disk.sync(self.path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `path` so that it holds the old content or the new, whatever happens. RunError: no space."""
    with disk_errors(path), disk.whole(path) as hidden:
        hidden.write_bytes(content)


def record(path: Path, remedy: str, kind: type[T], *checked: str) -> T | None:
    """The JSON object in a file, as the TypedDict `kind` has it; None where there is no file. Raises RunError, with the
    remedy, where it cannot be read, or a value (of the keys that are `checked`; none given: of all) is not of its kind:
    a type, or several joined by |. One with None may be missing."""
    try:
        check_file(path)
        content: T = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as e:
        raise RunError(f"{path} cannot be read ({e.strerror}); {remedy}") from e
    except (ValueError, RecursionError) as e:
        raise RunError(f"{path} is not JSON; {remedy}") from e
    said: object = content
    if not isinstance(said, dict):
        raise RunError(f"{path} holds no JSON object; {remedy}")
    hints = get_type_hints(kind)
    for key in checked or hints:
        value = said.get(key)
        if type(value) not in _types(hints[key]) or not _bounded(value):
            raise RunError(f"{path} has {repr(value)[:40]} as {key}; {remedy}")
    return content


def _types(hint: object) -> list[object]:
    """Those that | joins, without what a list or a dict holds."""
    return [get_origin(one) or one for one in (hint.__args__ if isinstance(hint, UnionType) else (hint,))]


def refresh(path: Path) -> None:
    """Let a shared file system look anew at what leads to a path: NFS does so where a folder is listed."""
    for folder in (path.parent.parent, path.parent):
        with suppress(OSError):
            os.listdir(folder)


def appears(path: Path) -> bool:
    """Whether a file that another host has written is there, now or within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path):  # False for a stale handle too
        if time.monotonic() >= deadline:
            return False
        refresh(path)
        time.sleep(0.2)
    return True


def check_file(path: Path) -> None:
    """Refuse what would let its reader wait. Raises RunError."""
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is not a file; restore or remove it")


def _bounded(value: object) -> bool:
    """Whether a value, if it is a number, can be counted with and printed. Inodes can take all of 64 bits."""
    return not isinstance(value, (int, float)) or abs(value) < 2**64


def to_json(row: Mapping[str, object]) -> str:
    """Keys keep their order, floats all their digits; what is not finite becomes null."""
    return json.dumps({k: _plain(v) for k, v in row.items()}, allow_nan=False)


def _plain(value: object) -> object:
    """A number of any library as Python's own, whose repr has every digit."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
