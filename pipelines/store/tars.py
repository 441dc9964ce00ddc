"""Reading WebDataset tars by sample number: the index gives the offset, a checksum is compared at every read."""

from __future__ import annotations

import math
import os
import re
import resource
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import TOO_MANY_FILES, DamagedSample, DataError, too_many_files
from ..remote import Remote
from ..samples import Box, Pixels
from ..views.pictures import crop, decode
from .ahead import Ahead
from .cache import Cache, Item
from .index import AGAIN, TABLE, FileFacts, Index, readable

T = TypeVar("T")


class _Tars(Index):
    """Samples in tars that are opened one by one; the limit of open files bounds how many are open."""

    remedy = AGAIN
    """Of a damaged shard."""

    def __init__(self, folder: str | Path | Remote, trusted: bool = False) -> None:
        super().__init__(folder, trusted)
        # The one read last is the last. pread has no position, so forked workers may share the descriptors.
        self._files: dict[int, int] = {}
        self.most_open = max(1, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        """A quarter of what the process may open: it reads two data sets, and the workers have pipes."""

    @abstractmethod
    def _open(self, shard: int) -> int:
        """A descriptor of the shard."""

    @abstractmethod
    def _shard(self, shard: int) -> str:
        """Its name in messages."""

    def read(self, i: int) -> tuple[bytes, int]:
        """The original bytes and the label of sample i. Raises DataError when the checksum does not match."""
        content = self._bytes(i)
        if zlib.crc32(content) != int(self.table["crc32"][i]):
            raise DamagedSample(f"{self._place(i)} is damaged (checksum); {self.remedy}")
        return content, int(self.labels[i])

    def intact(self, i: int) -> bool:
        """Whether sample i still has its checksum."""
        return zlib.crc32(self._bytes(i)) == int(self.table["crc32"][i])

    def image(self, i: int) -> Pixels:
        """Sample i decoded, uint8 `[C, H, W]`."""
        size = self.size(i)
        return self._picture(i, lambda content: decode(content, self.shape[0], math.prod(size)), size)

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of sample i at size x size, uint8 `[C, H, W]`."""
        most = math.prod(self.size(i))
        return self._picture(i, lambda content: crop(content, self.shape[0], box, size, most), (size, size))

    def decoded(self, i: int, how: Callable[[bytes], T]) -> T:
        """See `Encoded`."""
        content, _ = self.read(i)
        try:
            return how(content)
        except DataError as error:
            raise DamagedSample(f"{self._place(i)} {error}; {AGAIN}") from error

    def _picture(self, i: int, how: Callable[[bytes], Pixels], size: tuple[int, int]) -> Pixels:
        def checked(content: bytes) -> Pixels:
            pixels = how(content)
            if pixels.shape != (self.shape[0], *size):
                raise DataError(f"decodes to {list(pixels.shape)} instead of {[self.shape[0], *size]}")
            return pixels

        return self.decoded(i, checked)

    def _bytes(self, i: int) -> bytes:
        shard = int(self.table["shard"][i])
        try:
            descriptor = self._files.pop(shard, None)
            if descriptor is None:
                while len(self._files) >= self.most_open:
                    os.close(self._files.pop(next(iter(self._files))))
                descriptor = self._open(shard)
            self._files[shard] = descriptor
            return os.pread(descriptor, int(self.table["size"][i]), int(self.table["offset"][i]))
        except OSError as error:
            if error.errno in TOO_MANY_FILES:
                raise too_many_files(self._place(i)) from error
            raise DamagedSample(f"{self._place(i)} cannot be read ({error.strerror}); {AGAIN}") from error

    def _place(self, i: int) -> str:
        return f"{self._shard(int(self.table['shard'][i]))}: sample {i}"

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}  # a spawned worker opens its own

    def _close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self._close()


class TarDataset(_Tars):
    """The samples of one split folder, by number. Opening checks the index, and the size of every shard, unless
    `trusted`: see `Index`.

    Raises DataError, naming the file, when something is missing, damaged or does not match.
    """

    folder: Path

    def __init__(self, folder: str | Path, trusted: bool = False) -> None:
        super().__init__(folder, trusted)
        self.paths = [self.folder / name for name, _ in self.shards]
        for path, (_, size) in () if trusted else zip(self.paths, self.shards, strict=True):
            if not path.is_file():
                raise DataError(f"{path} is missing; {AGAIN}")
            if path.stat().st_size != size:
                raise DataError(f"{path} has {path.stat().st_size} bytes instead of {size}; {AGAIN}")

    def _open(self, shard: int) -> int:
        return os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)

    def _shard(self, shard: int) -> str:
        return str(self.paths[shard])


class RemoteTarDataset(_Tars):
    """The same of a split folder on another machine. Opening fetches the index; a shard is fetched whole into `cache`
    and checked when it is read, or before: see `following`. window: shards that are read together.

    Raises DataError where something cannot be fetched or is not what the index says, or the cache is too small.
    """

    folder: Remote
    remedy = "delete that file: it is fetched again"

    def __init__(self, folder: Remote, cache: Cache, window: int) -> None:
        self.cache = cache
        super().__init__(folder)
        with readable(folder):
            self.items = [self._item(fact["name"], fact) for fact in self.facts["shards"]]
        self._windows: NDArray[np.int64] = np.zeros(len(self.items), np.int64)
        needed = sum(sorted(item.bytes for item in self.items)[-2 * window :])
        if needed > cache.limit:
            raise DataError(
                f"two windows of {window} of the largest shards in {folder} have {needed} bytes, and the cache may "
                f"hold {cache.limit}; make data.cache_gb larger or data.window smaller"
            )

    @contextmanager
    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> Iterator[Callable[[int], None]]:
        """See `Samples`."""
        self._close()  # their turn was another
        self._windows = np.arange(len(self.items)) if windows is None else windows
        if not batches:
            yield lambda number: None
            return
        ahead = Ahead(self.cache, self.items, batches, self.shard_of, self._windows, hold=windows is not None)
        try:
            yield ahead.at
        finally:
            ahead.stop()
            self._close()

    def _table(self) -> bytes:
        with os.fdopen(self.cache.open(self._item(TABLE, self.facts["table"])), "rb") as file:
            return file.read()

    def _item(self, name: str, fact: FileFacts) -> Item:
        """Raises DataError for a SHA-256 that is none: it becomes the name of a file in the cache."""
        name, digest = str(name), str(fact["sha256"])
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise DataError(f"the index in {self.folder} names {name!r} with SHA-256 {digest!r}; {AGAIN}")
        return Item(self.folder / name, int(fact["bytes"]), digest)

    def _open(self, shard: int) -> int:
        done = [s for s in self._files if self._windows[s] < self._windows[shard]]
        for earlier in done:  # a file that has left the cache takes up space until it is closed
            os.close(self._files.pop(earlier))
        return self.cache.open(self.items[shard])

    def _shard(self, shard: int) -> str:
        return f"{self.items[shard].remote} (as {self.cache.path(self.items[shard])})"
