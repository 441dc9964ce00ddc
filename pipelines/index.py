"""The index of a split's folder: where each sample lies, its size, label and checksum, and what holds for all."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .remote import Remote

INDEX, TABLE = "index.json", "index.npz"
FORMAT = 2
COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "label": np.int32,
    "crc32": np.uint32,
    "height": np.int32,
    "width": np.int32,
}
AGAIN = "write the shards again with tdformer shard"


class Index:
    """What index.json and index.npz say. Raises DataError, naming the file, where they are missing or damaged."""

    def __init__(self, folder: str | Path | Remote) -> None:
        self.folder = Path(folder) if isinstance(folder, str) else folder
        try:
            self.facts: dict[str, Any] = json.loads(self._content(INDEX))
            if self.facts["format"] != FORMAT:
                raise DataError(f"{self.folder / INDEX} has format {self.facts['format']}, not {FORMAT}; {AGAIN}")
            with np.load(io.BytesIO(self._content(TABLE)), allow_pickle=False) as table:
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
            self.shards = [(str(s["name"]), int(s["bytes"])) for s in self.facts["shards"]]
            """Name and size in bytes of each shard."""
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing; {AGAIN}") from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"the index in {self.folder} cannot be read ({type(error).__name__}); {AGAIN}") from error
        if table_digest(self.table) != self.digest or len(self) != count:
            raise DataError(f"{self.folder / TABLE} does not match {INDEX}; {AGAIN}")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if len(wrong):
            i = int(wrong[0])
            raise DataError(
                f"{self.folder / TABLE}: sample {i} has label {self.labels[i]}, outside 0..{self.classes - 1}; {AGAIN}"
            )

    def _content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def __len__(self) -> int:
        return len(self.table["size"])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def labels(self) -> NDArray[np.int32]:
        """All labels, `[n]`."""
        return self.table["label"]

    @property
    def shard_of(self) -> NDArray[np.int32]:
        """The shard that each sample lies in, `[n]`."""
        return self.table["shard"]

    def following(
        self, batches: Sequence[NDArray[np.int64]], windows: NDArray[np.int64] | None
    ) -> AbstractContextManager[Callable[[int], None]]:
        """See `Samples`; on a disk there is nothing to fetch."""
        return nullcontext(lambda number: None)

    def size(self, i: int) -> tuple[int, int]:
        """Height and width of sample i in pixels."""
        return int(self.table["height"][i]), int(self.table["width"][i])

    def ids_of(self, shard: str) -> NDArray[np.int64]:
        """The samples in one shard, by the shard's name."""
        number = [name for name, _ in self.shards].index(shard)
        return np.flatnonzero(self.table["shard"] == number)


def table_digest(columns: dict[str, Any]) -> str:
    """SHA-256 over the index's columns: labels and checksums included, so two data sets that differ differ in it."""
    digest = hashlib.sha256()
    for key, kind in COLUMNS.items():
        digest.update(np.ascontiguousarray(columns[key], dtype=np.dtype(kind).newbyteorder("<")).tobytes())
    return digest.hexdigest()
