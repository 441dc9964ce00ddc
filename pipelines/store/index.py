"""The index of a split's folder: where each sample lies, its size, label and checksum, and what holds for all."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..classes import mapping
from ..draws import SHARE
from ..errors import DataError
from ..kinds import KINDS, unnamed
from ..remote import Remote
from ..samples import Kind

log = logging.getLogger(__name__)

INDEX, TABLE = "index.json", "index.npz"
FORMAT = 3
UNSEALED = 2
"""The format whose digest is that of the table alone."""
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


class FileFacts(TypedDict):
    bytes: int
    sha256: str


class ShardFacts(FileFacts):
    name: str
    count: int


class Facts(TypedDict):
    """What index.json says."""

    format: int
    dataset: str
    split: str
    count: int
    class_names: list[str]
    shape: list[int]
    mean: list[float]
    std: list[float]
    table: FileFacts
    shards: list[ShardFacts]
    columns: str
    digest: str
    kind: NotRequired[str]
    class_titles: NotRequired[list[str]]


_told: set[str] = set()


def read_facts(folder: Path | Remote) -> Facts:
    """What index.json says, whose digest is that of all of it. Raises DataError; of a file that is missing or damaged
    also what reading it raises: see `Index`."""
    facts: Facts = json.loads((folder / INDEX).read_bytes())
    if facts["format"] == UNSEALED:
        if str(folder) not in _told:
            log.warning("%s has format 2, whose classes, mean and std have no digest; %s", folder / INDEX, AGAIN)
            _told.add(str(folder))
        return facts | {"columns": facts["digest"]}
    if facts["format"] != FORMAT:
        raise DataError(f"{folder / INDEX} has format {facts['format']}, not {FORMAT}; {AGAIN}")
    if facts_digest(facts) != facts["digest"]:
        raise DataError(f"{folder / INDEX} is damaged (its digest is another); {AGAIN}")
    return facts


def class_names(folder: Path) -> list[str]:
    """Of a split whose table is not read. Raises DataError."""
    with readable(folder):
        return [str(name) for name in read_facts(folder)["class_names"]]


@contextmanager
def readable(folder: Path | Remote) -> Iterator[None]:
    """Turn what reading a missing or damaged index can raise into a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; {AGAIN}") from error
    except DataError:
        raise
    except Exception as error:  # json, zipfile and numpy raise a dozen kinds
        raise DataError(f"the index in {folder} cannot be read ({type(error).__name__}); {AGAIN}") from error


class Index:
    """What index.json and index.npz say. Raises DataError, naming the file, where they are missing or damaged.

    trusted: another process of this machine opens the same without it, and ends what both are for where it is damaged.
    """

    def __init__(self, folder: str | Path | Remote, trusted: bool = False) -> None:
        self.folder = Path(folder) if isinstance(folder, str) else folder
        with readable(self.folder):
            self.facts = read_facts(self.folder)
            with np.load(io.BytesIO(self._table()), allow_pickle=False) as table:
                self.table: dict[str, NDArray[Any]] = {
                    key: table[key].astype(kind, casting="equiv", copy=False) for key, kind in COLUMNS.items()
                }
            self.digest: str = self.facts["digest"]
            """Of everything here that decides numbers; in format 2, of the table."""
            self.columns: str = self.facts["columns"]
            """The digest of the table."""
            self.class_names: list[str] = [str(name) for name in self.facts["class_names"]]
            titles = self.facts.get("class_titles", ())
            self.class_titles = dict(zip(self.class_names, map(str, titles), strict=len(titles) > 0))
            self.dataset: str = self.facts["dataset"]
            """The name of what was converted."""
            channels, height, width = self.facts["shape"]
            self.kind = self._kind(channels)
            self.shape: tuple[int, int, int] = (channels, height, width)
            """(C, H, W) of every picture; H and W are 0 where each has its own."""
            self.mean: list[float] = self.facts["mean"]
            self.std: list[float] = self.facts["std"]
            count: int = self.facts["count"]
            finite = all(map(math.isfinite, self.mean + self.std))
            if not len(self.mean) == len(self.std) == channels or not finite or min(self.std) <= 0:
                raise ValueError("mean and std")
            self.shards = [(str(s["name"]), int(s["bytes"])) for s in self.facts["shards"]]
            """Name and size in bytes of each shard."""
            if not trusted:
                self._check(count)

    def _kind(self, channels: int) -> Kind:
        name = self.facts.get("kind", unnamed(channels).name)
        if name not in KINDS.names():
            raise DataError(
                f"{self.folder / INDEX} has samples of kind {name!r}, which nothing here reads; name the module that "
                "registers it under plugins"
            )
        return KINDS.get(name)

    def _check(self, count: int) -> None:
        """That the table is the one that `count` samples were told of; and that the index, which may be a stranger's,
        leads nowhere but into its shards."""
        if table_digest(self.table) != self.columns or {c.shape for c in self.table.values()} != {(count,)}:
            raise DataError(f"{self.folder / TABLE} does not match {INDEX}; {AGAIN}")
        for name, _ in self.shards:
            if not name.isprintable() or "/" in name or name in ("", ".", ".."):
                raise DataError(f"the index in {self.folder} names {name!r}, which is no file's name; {AGAIN}")
        column, sizes = self.table, np.array([size for _, size in self.shards], np.int64)

        def refuse(wrong: NDArray[np.bool_], how: Callable[[int], str]) -> None:
            if wrong.any():
                i = int(wrong.argmax())
                raise DataError(f"{self.folder / TABLE}: sample {i} {how(i)}; {AGAIN}")

        outside = (self.labels < 0) | (self.labels >= self.classes)
        refuse(outside, lambda i: f"has label {self.labels[i]}, outside 0..{self.classes - 1}")
        refuse((self.shard_of < 0) | (self.shard_of >= len(sizes)), lambda i: "lies in no shard")
        room = sizes[self.shard_of] - column["size"]
        outside = (column["size"] < 0) | (column["offset"] < 0) | (column["offset"] > room)
        refuse(outside, lambda i: f"lies outside {self.shards[self.shard_of[i]][0]}")
        sides = np.stack([column["height"], column["width"]], 1)
        wrong = np.not_equal(sides, self.shape[1:]) if all(self.shape) else sides < 1
        refuse(np.any(wrong, axis=1), lambda i: f"has {sides[i, 0]} x {sides[i, 1]} pixels")

    def number_as(self, names: Sequence[str], of: str) -> None:
        """Give each class the number that it has in `names`, those of `of`. Raises DataError where the classes are
        not the same ones."""
        turned = mapping(names, self.class_names, of, str(self.folder))
        if turned is not None:
            self.table["label"] = np.array(turned, np.int32)[self.labels]
            self.class_names = list(names)

    def keep(self, share: float) -> None:
        """Go on with this share of the samples alone, in their order here: the same ones for a run of any seed, those
        of a smaller share among them. Raises DataError where it is none."""
        count = round(share * len(self))
        if count < 1:
            raise DataError(f"a share of {share:g} of the {len(self)} samples in {self.folder} has none")
        self._take(np.sort(SHARE.order(len(self), 0)[:count]))
        self.digest = self.columns = hashlib.sha256(f"{self.digest} {count}".encode()).hexdigest()

    def _take(self, ids: NDArray[np.int64]) -> None:
        """Leave out every sample but these."""
        self.table = {key: column[ids] for key, column in self.table.items()}

    def _table(self) -> bytes:
        """The bytes of index.npz."""
        return (self.folder / TABLE).read_bytes()

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


def facts_digest(facts: Mapping[str, object]) -> str:
    """SHA-256 over all facts that decide numbers: not those of the table's file, whose columns have a digest."""
    covered = {key: value for key, value in facts.items() if key not in ("digest", "table", "class_titles")}
    return hashlib.sha256(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def table_digest(columns: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over the index's columns, labels and checksums of the samples among them."""
    digest = hashlib.sha256()
    for key, kind in COLUMNS.items():
        digest.update(np.ascontiguousarray(columns[key], dtype=np.dtype(kind).newbyteorder("<")).tobytes())
    return digest.hexdigest()
