"""Reading FFCV files by sample number, with the index of the shards that they were made from."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import disk
from ..errors import DamagedSample, DataError
from ..samples import Box, Pixels
from . import beton_writer, ours
from .ffcv_adapter import installed
from .forms import ffcv_file
from .index import Index
from .stored import STORED, Kept

AGAIN = "write it again with tdformer shard --to ffcv"


class BetonDataset(Index):
    """The samples of one split folder, from its FFCV file: the same ids, labels and boxes as from its shards.

    FFCV itself opens a file that was cut or overwritten without a word. So opening compares it with its checksums,
    once: the file that was found whole is remembered by inode, size and time of change. progress: told of the bytes
    compared and to compare. trusted: see `Index`; not even that is looked at. Raises DataError, naming the file and the
    first sample that is damaged.
    """

    folder: Path

    def __init__(
        self, folder: str | Path, progress: Callable[[int, int], None] | None = None, trusted: bool = False
    ) -> None:
        super().__init__(folder, trusted)
        self.path = ffcv_file(self.folder)
        self._checks = self._read_facts()
        self.stored = STORED[str(self._checks["stored"])]
        installed()
        try:
            table = self.stored.table(self.path, self.shape)
        except Exception as error:  # see `ffcv_adapter`
            raise DataError(f"{self.path} cannot be read ({type(error).__name__}); {AGAIN}") from error
        if not np.array_equal(table.labels, self.labels):
            raise DataError(f"{self.path} has other samples than the index beside it; {AGAIN}")
        self._first, self._size, self._sides = table.first, table.size, table.sides
        wrong = np.flatnonzero((table.first < 0) | (table.size < 0) | (self._end > self.path.stat().st_size))
        if len(wrong):
            raise DataError(f"{self.path} has sample {wrong[0]} outside the file; {AGAIN}")
        if not trusted:
            self.verify(progress)
        self._bytes: NDArray[np.uint8] = np.memmap(self.path, np.uint8, "r")

    def image(self, i: int) -> Pixels:
        """Sample i, uint8 `[C, H, W]`."""
        return self.stored.image(self._kept(i))

    def crop(self, i: int, box: Box, size: int) -> Pixels:
        """A box of sample i, in pixels of the original, at size x size: uint8 `[C, size, size]`."""
        return self.stored.crop(self._kept(i), box, size)

    def verify(self, progress: Callable[[int, int], None] | None = None, again: bool = False) -> None:
        """Compare the file with its checksums, if this very file was not found whole before, or `again`."""
        expected, note = self._checks["crc32"], self.path.with_name(f".{self.path.name}.whole")
        facts = self.path.stat()
        this = {"inode": facts.st_ino, "bytes": facts.st_size, "changed": facts.st_mtime_ns}
        try:
            known = json.loads(note.read_text()) == this
        except (OSError, ValueError):
            known = False
        if known and not again:
            return
        for k, (found, wanted) in enumerate(zip(beton_writer.crcs(self.path), expected, strict=True)):
            if found != wanted:
                start, end = k * beton_writer.BLOCK, (k + 1) * beton_writer.BLOCK
                hit = np.flatnonzero((self._first < end) & (self._end > start))
                where = f" (first at sample {hit[0]})" if len(hit) else ""
                raise DataError(f"{self.path} is damaged in its bytes {start} to {end}{where}; {AGAIN}")
            if progress is not None:
                progress(min((k + 1) * beton_writer.BLOCK, facts.st_size), facts.st_size)
        if note.exists() and not ours.is_note(note):
            return
        with suppress(OSError), disk.whole(note) as file:  # else it is compared at every opening
            file.write_text(json.dumps(this))

    def _read_facts(self) -> dict[str, NDArray[np.generic]]:
        checks = beton_writer.checks(self.path)
        for needed in (self.path, checks):
            if not needed.is_file():
                raise DataError(f"{needed} is missing; {AGAIN}")
        try:
            with np.load(checks, allow_pickle=False) as table:
                facts = {key: table[key] for key in ("digest", "bytes", "stored", "crc32")}
        except Exception as error:  # zipfile and numpy raise half a dozen kinds
            raise DataError(f"{checks} cannot be read ({type(error).__name__}); {AGAIN}") from error
        if str(facts["digest"]) != self.digest:
            raise DataError(f"{self.path} was made from other shards than the index beside it; {AGAIN}")
        if str(facts["stored"]) not in STORED:
            raise DataError(f"{checks} says that {self.path.name} holds {str(facts['stored'])!r:.40}; {AGAIN}")
        size = self.path.stat().st_size
        if size != int(facts["bytes"]):
            raise DataError(f"{self.path} has {size} bytes instead of {int(facts['bytes'])}; {AGAIN}")
        return facts

    def _take(self, ids: NDArray[np.int64]) -> None:
        super()._take(ids)
        self._first, self._size = self._first[ids], self._size[ids]
        self._sides = None if self._sides is None else self._sides[ids]

    @property
    def _end(self) -> NDArray[np.int64]:
        """The byte after each sample, `[n]`."""
        return self._first + self._size

    def _kept(self, i: int) -> Kept:
        first = self._first[i]
        content = self._bytes[first : first + self._size[i]]
        if self.stored.original and zlib.crc32(content.data) != int(self.table["crc32"][i]):
            raise DamagedSample(f"{self.path}: sample {i} is damaged (checksum); {AGAIN}")
        return Kept(content, self.shape, self.size(i), None if self._sides is None else self._sides[i])
