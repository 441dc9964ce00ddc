"""A disk whose power can be cut: what of a folder would be left, by what was synced and when.

`watched` follows `os.fsync`, `os.rename` and `os.replace` of this process. A file keeps the content that it had when it
was last synced, a folder the names that it had then. Names can also come to the disk by themselves, before content
does; so each moment has two remains: with the names that were synced, and with all names that are there.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch


class Disk:
    """Remembers what was synced in a folder and below, by inode, and the order in which all that happened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.events: list[str] = []
        """`sync NAME`, `sync FOLDER/` and `NAME -> NAME`, without what is random in a name."""

    def synced(self, descriptor: int) -> None:
        path, about = Path(os.readlink(f"/proc/self/fd/{descriptor}")), os.fstat(descriptor)
        if not path.is_relative_to(self.root):
            return
        if stat.S_ISDIR(about.st_mode):
            self.names[about.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
            self.events.append(f"sync {self.named(path)}/")
        else:
            self.content[about.st_ino] = path.read_bytes()
            self.events.append(f"sync {self.named(path)}")

    def named(self, path: Path) -> str:
        name = path.relative_to(self.root).as_posix()
        parts = name.split(".")
        return ".".join("*" if len(part) == 8 and set(part) <= set("0123456789abcdef") else part for part in parts)

    def left(self, all_names: bool) -> Path:
        """A copy of the folder, as a power cut would leave it now; a name whose content was never synced leads to an
        empty file."""
        to = self.root.with_name(f"{self.root.name}-left")
        shutil.rmtree(to, ignore_errors=True)
        self._copy(self.root, self.root.stat().st_ino, to, all_names)
        return to

    def _copy(self, folder: Path, inode: int, to: Path, all_names: bool) -> None:
        to.mkdir(parents=True)
        now = {entry.inode(): Path(entry.path) for entry in os.scandir(folder)} if folder.is_dir() else {}
        names = {path.name: number for number, path in now.items()} if all_names else self.names.get(inode, {})
        for name, number in names.items():
            if now[number].is_dir() if number in now else number in self.names:
                self._copy(now.get(number, Path("gone")), number, to / name, all_names)
            else:
                (to / name).write_bytes(self.content.get(number, b""))


@contextmanager
def watched(root: Path, look: Callable[[Disk], None] | None = None) -> Iterator[Disk]:
    """Follow what is done in `root`, which is on the disk as it is now. look: called before and after each sync and
    rename; it asserts."""
    disk = Disk(root)
    for path in (root, *root.rglob("*")):
        descriptor = os.open(path, os.O_RDONLY)
        disk.synced(descriptor)
        os.close(descriptor)
    disk.events.clear()

    def cut() -> None:
        if look is not None:
            look(disk)

    def fsync(descriptor: int, real: Any = os.fsync) -> None:
        cut()
        real(descriptor)
        disk.synced(descriptor)
        cut()

    def renamed(real: Any) -> Callable[..., None]:
        def rename(source: Any, target: Any) -> None:
            cut()
            real(source, target)
            if Path(source).is_relative_to(root):
                disk.events.append(f"{disk.named(Path(source))} -> {disk.named(Path(target))}")
            cut()

        return rename

    with patch.multiple(os, fsync=fsync, rename=renamed(os.rename), replace=renamed(os.replace)):
        yield disk
