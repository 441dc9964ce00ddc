"""Reading WebDataset tars by sample number: the index gives the offset, a checksum is compared at every read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .boxes import Box
from .errors import DataError
from .index import AGAIN, Index
from .pictures import Pixels, crop, decode
from .recordings import Events
from .recordings import decode as decode_events


class TarDataset(Index):
    """The samples of one split folder, by number. Opening checks the index, and the size of every shard.

    Raises DataError, naming the file, when something is missing, damaged or does not match.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.paths = [self.folder / name for name, _ in self.shards]
        for path, (_, size) in zip(self.paths, self.shards, strict=True):
            if not path.is_file():
                raise DataError(f"{path} is missing; {AGAIN}")
            if path.stat().st_size != size:
                raise DataError(f"{path} has {path.stat().st_size} bytes instead of {size}; {AGAIN}")
        self._files: dict[int, int] = {}  # pread has no position, so forked workers may share the descriptors

    def read(self, i: int) -> tuple[bytes, int]:
        """The original bytes and the label of sample i. Raises DataError when the checksum does not match."""
        content = self._bytes(i)
        if zlib.crc32(content) != int(self.table["crc32"][i]):
            raise DataError(f"{self._place(i)} is damaged (checksum); {AGAIN}")
        return content, int(self.labels[i])

    def intact(self, i: int) -> bool:
        """Whether sample i still has its checksum."""
        return zlib.crc32(self._bytes(i)) == int(self.table["crc32"][i])

    def image(self, i: int) -> Pixels:
        """Sample i decoded, uint8 `[C, H, W]`."""
        return self._decoded(i, lambda content: decode(content, self.shape[0]), self.size(i))

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of sample i at size x size, uint8 `[C, H, W]`."""
        return self._decoded(i, lambda content: crop(content, self.shape[0], box, size), (size, size))

    def events(self, i: int) -> Events:
        """Sample i of a set of events."""
        content, _ = self.read(i)
        try:
            return decode_events(content)
        except DataError as error:
            raise DataError(f"{self._place(i)} {error}; {AGAIN}") from error

    def _decoded(self, i: int, how: Callable[[bytes], Pixels], size: tuple[int, int]) -> Pixels:
        content, _ = self.read(i)
        try:
            pixels = how(content)
            if pixels.shape != (self.shape[0], *size):
                raise DataError(f"decodes to {list(pixels.shape)} instead of {[self.shape[0], *size]}")
        except DataError as error:
            raise DataError(f"{self._place(i)} {error}; {AGAIN}") from error
        return pixels

    def _bytes(self, i: int) -> bytes:
        shard = int(self.table["shard"][i])
        try:
            if shard not in self._files:
                self._files[shard] = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._files[shard], int(self.table["size"][i]), int(self.table["offset"][i]))
        except OSError as error:
            raise DataError(f"{self._place(i)} cannot be read ({error.strerror}); {AGAIN}") from error

    def _place(self, i: int) -> str:
        return f"{self.paths[int(self.table['shard'][i])]}: sample {i}"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}  # a spawned worker opens its own

    def __del__(self) -> None:
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)
