"""A bounded folder of fetched files, shared by all processes of a machine. Files are known by their SHA-256.

A lock file for each is held, exclusively, by whom fetches it or removes it, and shared by whom needs it to stay; locks
end with their holder, whatever ends it. What is visible is whole: it is checked and then renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import disk
from ..errors import TOO_MANY_FILES, DataError, too_many_files
from ..remote import Failure, Remote
from .index import AGAIN

log = logging.getLogger(__name__)

_TELL = 60.0
"""Seconds between two lines about what is waited for."""
_POLL = 0.05
"""Seconds between two looks at what another process holds."""
_OURS = re.compile(r"[0-9a-f]{64}\.(file|part)")


@dataclass(frozen=True)
class Item:
    """A remote file, its size in bytes and SHA-256."""

    remote: Remote
    bytes: int
    sha256: str


def default_folder() -> Path:
    """In the machine's folder for temporary files, or the one that a job was given."""
    return Path(tempfile.gettempdir()) / f"tdformer-{os.getuid()}"


class Cache:
    """Never holds more than `limit` bytes. What was needed longest ago goes first; a reader with an open descriptor
    keeps what it reads. Raises DataError where the folder cannot be written, is another user's, or the disk is full."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with self._disk():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Of a link too, which in /tmp anyone can make: whoever owns the folder can change what is in it.
            owners = {folder.lstat().st_uid, folder.stat().st_uid} - {os.geteuid()}
        if owners:
            raise DataError(f"{folder} belongs to user {max(owners)}, and is no cache of yours; set data.cache")

    def path(self, item: Item) -> Path:
        return self.folder / f"{item.sha256}.file"

    def open(self, item: Item) -> int:
        """A descriptor of the file, fetched where it is missing. Raises DataError."""
        tell, patience = _Teller(f"waiting for {item.remote}"), item.remote.patience
        while True:
            with self._disk(item):
                with suppress(FileNotFoundError):
                    return os.open(self.path(item), os.O_RDONLY | os.O_CLOEXEC)
                with self._locked(item.sha256) as mine:
                    if mine and not self.path(item).exists():
                        self._fetch(item, tell, patience.tries * patience.timeout)
            if not mine:  # another process fetches it
                tell()
                time.sleep(_POLL)

    def ahead(self, item: Item, go_on: Callable[[], None]) -> bool:
        """Fetch the file, if no other process does and there is room. True: it is there. go_on is called for each piece
        and may raise. Raises DataError."""
        with self._disk(item), self._locked(item.sha256) as mine:
            return mine and (self.touch(item) or self._fetch(item, go_on, None))

    def touch(self, item: Item) -> bool:
        """Note that the file is needed. False: it is not there."""
        with self._disk(item), suppress(FileNotFoundError):
            os.utime(self.path(item))
            return True
        return False

    def hold(self, item: Item) -> int | None:
        """Keep the file from being removed until the descriptor given is let go; None: it is not there."""
        with self._disk(item):
            descriptor = self._lock(item.sha256, fcntl.LOCK_SH)
            if descriptor is not None and not self.touch(item):
                let_go(descriptor)
                return None
            return descriptor

    def _fetch(self, item: Item, go_on: Callable[[], None], patience: float | None) -> bool:
        """Called with the item's lock held. patience: seconds to wait for room; None: False at once. go_on is called
        again and again while it lasts."""
        part = self.folder / f"{item.sha256}.part"
        with self._space():
            part.unlink(missing_ok=True)  # of a process that was killed
        begun = time.monotonic()
        while not self._reserved(part, item.bytes):
            if patience is None:
                return False
            go_on()
            time.sleep(_POLL)
            if time.monotonic() - begun > patience:
                raise DataError(
                    f"no room in {self.folder} for {item.remote} ({item.bytes} bytes): all in it is in use; make "
                    "data.cache_gb larger, or give each run its own data.cache"
                )

        def take(pieces: Iterator[bytes]) -> None:
            digest, done = hashlib.sha256(), 0
            with part.open("r+b") as file:
                for piece in pieces:
                    go_on()
                    done += len(piece)
                    if done > item.bytes:
                        break
                    digest.update(piece)
                    file.write(piece)
            disk.sync(part)
            if done != item.bytes:
                raise Failure(f"{'more than' if done > item.bytes else f'{done} of'} {item.bytes} bytes", remedy=AGAIN)
            if digest.hexdigest() != item.sha256:
                raise Failure("its SHA-256 is not that of index.json", remedy=AGAIN)

        try:
            item.remote.fetched(take)
            with self._space():
                disk.publish(part, self.path(item))
        except BaseException:
            with self._space():
                part.unlink(missing_ok=True)
            raise
        return True

    def _reserved(self, part: Path, size: int) -> bool:
        """Make `part` of `size` bytes, which count from now on; what was needed longest ago goes if that makes room."""
        with self._space(), ExitStack() as locks:
            there = []
            for path in self.folder.iterdir():
                if _OURS.fullmatch(path.name):
                    facts = path.stat()
                    there.append((facts.st_mtime_ns, facts.st_size, path))
            used, leaving = sum(length for _, length, _ in there), []
            for _, length, path in sorted(there):
                if used + size <= self.limit:
                    break
                if locks.enter_context(self._locked(path.stem)):
                    leaving.append(path)
                    used -= length
            if used + size > self.limit:
                return False
            for path in leaving:
                path.unlink()
            with part.open("wb") as file:
                file.truncate(size)
            return True

    @contextmanager
    def _space(self) -> Iterator[None]:
        """While files come and go, so that each is counted once."""
        descriptor = self._lock("space", fcntl.LOCK_EX, wait=True)
        try:
            yield
        finally:
            assert descriptor is not None
            let_go(descriptor)

    @contextmanager
    def _locked(self, name: str) -> Iterator[bool]:
        """Whether the lock could be had; it is held inside."""
        descriptor = self._lock(name, fcntl.LOCK_EX)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                let_go(descriptor)

    def _lock(self, name: str, kind: int, wait: bool = False) -> int | None:
        descriptor = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def _disk(self, item: Item | None = None) -> Iterator[None]:
        """Turn what a disk can say into a DataError."""
        try:
            yield
        except OSError as error:
            what = f" for {item.remote}" if item else ""
            if disk.is_full(error):
                raise DataError(disk.no_space(f"in {self.folder}{what}", "free some, or set data.cache")) from error
            if error.errno in TOO_MANY_FILES:
                raise too_many_files(f"{self.folder}{what}") from error
            raise DataError(f"cannot write {self.folder}{what} ({error.strerror}); set data.cache") from error


def let_go(descriptor: int) -> None:
    """Unlock, also where a fork has the descriptor too, and close."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


class _Teller:
    """Called again and again; says what goes on, when it takes long."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.begun = self.told = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.told >= _TELL:
            self.told = now
            log.warning("%s: %d s so far", self.what, now - self.begun)
