"""Reading WebDataset tars by sample number: the index gives the offset, a checksum is compared at every read."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import Box
from .errors import DataError
from .pictures import Pixels, crop, decode
from .shards import COLUMNS, FORMAT, INDEX, TABLE, table_digest

AGAIN = "write the shards again with tdformer shard"


class TarDataset:
    """The samples of one split folder, by number. Opening checks the index, and the size of every shard.

    Raises DataError, naming the file, when something is missing, damaged or does not match.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.facts: dict[str, Any] = json.loads((self.folder / INDEX).read_text())
            if self.facts["format"] != FORMAT:
                raise DataError(f"{self.folder / INDEX} has format {self.facts['format']}, not {FORMAT}; {AGAIN}")
            with np.load(self.folder / TABLE, allow_pickle=False) as table:
                self.table: dict[str, NDArray[Any]] = {key: table[key] for key in COLUMNS}
            self.digest: str = self.facts["digest"]
            self.class_names: list[str] = self.facts["class_names"]
            channels, height, width = self.facts["shape"]
            self.shape: tuple[int, int, int] = (channels, height, width)
            """(C, H, W) of every picture; H and W are 0 where each has its own."""
            self.mean: list[float] = self.facts["mean"]
            self.std: list[float] = self.facts["std"]
            count: int = self.facts["count"]
            if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0:
                raise ValueError("mean and std")
            shards = [(self.folder / s["name"], s["bytes"]) for s in self.facts["shards"]]
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing; {AGAIN}") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"the index in {self.folder} cannot be read ({type(error).__name__}); {AGAIN}") from error
        if table_digest(self.table) != self.digest or len(self.table["size"]) != count:
            raise DataError(f"{self.folder / TABLE} does not match {INDEX}; {AGAIN}")
        self.paths = [path for path, _ in shards]
        for path, size in shards:
            if not path.is_file():
                raise DataError(f"{path} is missing; {AGAIN}")
            if path.stat().st_size != size:
                raise DataError(f"{path} has {path.stat().st_size} bytes instead of {size}; {AGAIN}")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if len(wrong):
            i = int(wrong[0])
            raise DataError(
                f"{self.folder / TABLE}: sample {i} has label {self.labels[i]}, outside 0..{self.classes - 1}; {AGAIN}"
            )
        self._files: dict[int, int] = {}  # pread has no position, so forked workers may share the descriptors

    def __len__(self) -> int:
        return len(self.table["size"])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[n]`."""
        return self.table["label"]

    def ids_of(self, shard: str) -> NDArray[np.int64]:
        """The samples in one shard, by the shard's name."""
        number = [path.name for path in self.paths].index(shard)
        return np.flatnonzero(self.table["shard"] == number)

    def read(self, i: int) -> tuple[bytes, int]:
        """The original bytes and the label of sample i. Raises DataError when the checksum does not match."""
        content = self._bytes(i)
        if zlib.crc32(content) != int(self.table["crc32"][i]):
            raise DataError(f"{self._place(i)} is damaged (checksum); {AGAIN}")
        return content, int(self.labels[i])

    def intact(self, i: int) -> bool:
        """Whether sample i still has its checksum."""
        return zlib.crc32(self._bytes(i)) == int(self.table["crc32"][i])

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of sample i."""
        return int(self.table["height"][i]), int(self.table["width"][i])

    def image(self, i: int) -> NDArray[np.uint8]:
        """Sample i decoded, uint8 `[C, H, W]`."""
        return self._decoded(i, lambda content: decode(content, self.shape[0]), self.size(i))

    def crop(self, i: int, box: Box, size: int) -> NDArray[np.uint8]:
        """A box of sample i at size x size, uint8 `[C, H, W]`."""
        return self._decoded(i, lambda content: crop(content, self.shape[0], box, size), (size, size))

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
