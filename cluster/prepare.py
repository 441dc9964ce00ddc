"""The data of a configuration, as shards that are whole: written where they are missing, checked where they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines import catalog, index, shards
from pipelines.errors import DataError
from pipelines.remote import Remote, is_remote
from pipelines.webdataset import RemoteTarDataset, TarDataset

from . import config as configs
from .errors import RunError, disk_errors
from .monitor import duration
from .run import exclusive
from .samples import opened_remote

FALL_BACK = "digits"


def prepare(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Make sure that the shards of the configuration at `path` are there; returns the configuration to train.

    That is `path`, or, where the raw files of Fashion-MNIST are missing, the recipe beside it for scikit-learn's
    digits, which need none. Raises RunError or DataError for shards that are damaged or of another data set.
    """
    config = configs.load(path, overrides)
    data = config.data
    if isinstance(folder := data.folder, Remote):  # not ours to write
        for split in catalog.get(data.dataset).splits:
            _check(data.dataset, opened_remote(config, folder, split))
        return path
    source = Path(data.source) if data.source else None
    try:
        _ensure(data.dataset, folder, source)
    except DataError as e:
        instead = path.with_name(f"{FALL_BACK}.yaml")
        missing = data.dataset == "fashion_mnist" and source is None and not catalog.FASHION_MNIST_FOLDER.exists()
        if not missing or _splits(folder) or not instead.is_file():
            raise
        _say(f"{e}\nFashion-MNIST is not on this machine: taking scikit-learn's 1,797 digits instead ({instead})")
        other = configs.load(instead).data
        assert isinstance(other.folder, Path)
        _ensure(other.dataset, other.folder, None)
        return instead
    return path


def write_shards(
    dataset: str, folder: Path, source: Path | None = None, samples_per_shard: int = 10_000, processes: int = 1
) -> None:
    """Write every split of a data set, in place of what is there; interrupted, the same call goes on.

    Raises DataError; nothing half-written is ever seen.
    """
    _local(folder)
    known = catalog.get(dataset)
    if source is not None and not source.is_dir():
        raise DataError(f"{source}: no such folder to read {dataset} from")
    with exclusive(folder, wait=600), disk_errors(folder):
        for split in known.splits:
            where = shards.write(
                known,
                split,
                folder,
                source=source,
                samples_per_shard=samples_per_shard,
                processes=processes,
                progress=_Progress(split),
            )
            _say(f"wrote {where}: {len(TarDataset(where)):,} samples")


def verify_shards(folder: Path) -> Iterator[str]:
    """Read all shards in `folder`, which holds splits or is one; a line for each split. Raises DataError."""
    _local(folder)
    splits = _splits(folder)
    if not splits:
        raise RunError(f"{folder} holds no shards; give the folder that `tdformer shard` wrote")
    for split in splits:
        yield f"{split}: {shards.verify(split):,} samples, as in the index"


def _ensure(dataset: str, folder: Path, source: Path | None) -> None:
    known = catalog.get(dataset)
    if not all((folder / split).exists() for split in known.splits):
        write_shards(dataset, folder, source)
    for split in known.splits:
        _check(dataset, TarDataset(folder / split))
    _say(f"{dataset} is in {folder}")


def _check(dataset: str, data: TarDataset | RemoteTarDataset) -> None:
    if data.facts["dataset"] != dataset:
        raise RunError(
            f"{data.folder} holds {data.facts['dataset']}, the configuration asks for {dataset}; "
            f"set data.root to another folder"
        )


def _local(folder: Path) -> None:
    if is_remote(str(folder)):
        raise RunError(f"{folder} is not a local folder; write and verify shards on a disk, then copy them")


def _splits(folder: Path) -> list[Path]:
    return [p.parent for p in sorted([*folder.glob(index.INDEX), *folder.glob(f"[!.]*/{index.INDEX}")])]


class _Progress:
    """A line every 10 seconds with the time that is left."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.begun = self.said = time.monotonic()
        self.first = 0

    def __call__(self, done: int, of: int) -> None:
        now = time.monotonic()
        self.first = self.first or done  # the first shards may have been there
        if now - self.said >= 10 and done > self.first:
            left = (of - done) * (now - self.begun) / (done - self.first)
            self.said = now
            _say(f"{self.split}: {done:,} of {of:,} samples, {duration(left)} left")


def _say(line: str) -> None:
    """To people: standard output is for the path."""
    print(line, file=sys.stderr, flush=True)
