"""Data sets of recordings: a sample is one, or a part of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..events import Events, encode
from . import recordings
from .folders import Files, FolderDataset
from .listing import Skipped
from .source import DATASETS, Dataset, Sample, Source, mark_of

COUNTS = (0.0, 0.0), (1.0, 1.0)
"""Mean and standard deviation where values are counts, which are taken as they are."""
SUFFIXES = (".aedat", ".npz")
"""Of recordings."""


@dataclass(frozen=True)
class Part:
    """A sample: of the recording at path all events, or those with start <= t < end in microseconds."""

    path: Path
    label: int
    start: int | None = None
    end: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.start is None else f"{self.path} from {self.start} to {self.end} us"


@dataclass(frozen=True)
class EventDataset(Dataset):
    """A data set of recordings; listing(split, source): the parts that are its samples."""

    kind: str = field(default="events", kw_only=True)
    class_names: tuple[str, ...]
    listing: Callable[[str, Path], list[Part]]

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None:
            raise DataError(
                f"{self.name} is read from its unpacked archive; give its folder with --source (data.source)"
            )
        return _Recordings(self.class_names, self.listing(split, source))


@dataclass(frozen=True)
class EventFolder(FolderDataset):
    """As FolderDataset, of .aedat and .npz recordings."""

    kind: str = field(default="events", kw_only=True)

    def _opened(self, files: Files) -> Source:
        parts = [Part(files.path(i), int(files.labels[i])) for i in range(len(files))]
        return _Recordings(files.class_names, parts, files.skipped)


@dataclass
class _Recordings:
    class_names: tuple[str, ...]
    parts: list[Part]
    skipped: Skipped = field(default_factory=Skipped)
    _last: tuple[Path, Events] | None = None  # the recording read last: its parts are neighbours

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> Sample:
        part = self.parts[i]
        if self._last is None or self._last[0] != part.path:
            self._last = None  # two need not be in memory at once
            self._last = part.path, recordings.read(part.path)
        events = self._last[1]
        if part.start is not None and part.end is not None:
            events = events.between(part.start, part.end)
            if not len(events):
                raise DataError(f"{part} has no events, though its labels name a gesture there; {recordings.AGAIN}")
        return Sample(f"{i:08d}", encode(events), "npz", part.label, str(part))

    def mark(self, i: int) -> str:
        part = self.parts[i]
        return f"{part} {mark_of(part.path, part.label)}"


EVENTS = DATASETS.register(EventFolder("events", (2, 0, 0), *COUNTS, suffixes=SUFFIXES))
