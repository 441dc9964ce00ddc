"""How files come to the disk: under a temporary name, synced, renamed, and the folder's names synced.

After a power cut a name then leads to what it led to before or to all of the new content. A rename that is not synced
may be undone by one; content that is not synced may be lost under a name that is there.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 1 << 26
"""Bytes that `sync_blocks` brings to the disk at once."""


def number(error: BaseException) -> int | None:
    """The system's number of an error, which safetensors has in its text; None: the system did not say it."""
    said = re.search(r"\(os error ([0-9]+)\)", str(error))
    return getattr(error, "errno", None) or (int(said[1]) if said else None)


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk or a quota is full."""
    return number(error) in NO_SPACE or "No space left on device" in str(error)


def no_space(what: str, remedy: str = "free some and run the same command again") -> str:
    """The line about a full disk. what: such as `to write FILE`."""
    return f"no space left {what}; {remedy}"


def temporary(path: Path, suffix: str = ".tmp") -> Path:
    """A hidden name beside `path` that nobody has."""
    return path.with_name(f".{path.name.removeprefix('.')}.{secrets.token_hex(4)}{suffix}")


def sync(place: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_blocks(path: Path, done: Callable[[int], None]) -> None:
    """`sync` of a file, in blocks where the file system maps files into memory: of a whole file nothing is heard until
    its end. done: told of bytes, as they are done."""
    with path.open("r+b") as file:
        whole = None
        with suppress(OSError, ValueError):
            whole = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        if whole is not None:
            with whole:
                for start in range(0, len(whole), BLOCK):
                    whole.flush(start, min(BLOCK, len(whole) - start))
                    done(BLOCK)
        os.fsync(file.fileno())
        done(1)


def publish(hidden: Path, final: Path) -> None:
    """Give a file or folder that is synced its name, for good; a file that has it is replaced."""
    os.replace(hidden, final)
    sync(final.parent)


@contextmanager
def whole(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A place to write a file to, which becomes `path` when the block ends well, and is gone when it does not."""
    hidden = temporary(path, suffix)
    try:
        yield hidden
        sync(hidden)
        publish(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
