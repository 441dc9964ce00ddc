"""What a configuration makes of a data set: the reader, what is seen of its samples, their augmentation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import DataError
from pipelines.kinds import KINDS
from pipelines.remote import Remote, check_public
from pipelines.samples import Augmentation, Samples, Seen
from pipelines.settings import OF_A_KIND, AugmentSettings, Settings
from pipelines.store.cache import Cache, default_folder
from pipelines.store.index import INDEX, Index, class_names
from pipelines.store.opening import Split, open_split
from pipelines.store.tars import RemoteTarDataset
from pipelines.views.files import FileSamples
from tdformer.digest import Input
from tdformer.errors import first_line
from tdformer.registry import entry_of

from ..config import Config, DataConfig, flat
from ..errors import RunError
from ..run.progress import progress
from .missing import check_written

Data = tuple[Samples, Samples]
"""What is trained on, and what is evaluated on."""


def training_data(config: Config, trusted: bool = False) -> Data:
    """The samples of `train` and `test`, whose classes have the numbers that they have in `train`. trusted: another
    process of this machine checks them, where they lie on it.

    Raises DataError where they are not whole or their classes differ; RunError where they are of another data set than
    the configuration asks for, or the windows of a remote set are too small."""
    train, test = (_read(config, split, trusted) for split in ("train", "test"))
    test.number_as(train.class_names, str(train.folder))
    if config.data.share < 1:
        train.keep(config.data.share)
    return train, test


def opened(config: Config, split: str) -> Samples:
    """One of the two. Of the other only the names of the classes are read, where it lies on this machine."""
    data, folder = _read(config, split), config.data.folder
    if isinstance(folder, Path) and (folder / "train" / INDEX).is_file():
        data.number_as(class_names(folder / "train"), str(folder / "train"))
    return data


def _read(config: Config, split: str, trusted: bool = False) -> Split:
    folder = config.data.folder
    if isinstance(folder, Remote):
        data: Split = _fetched(config, folder, split)
    else:
        check_written(config, folder, split)
        copy, told = config.data.form.copy is not None, progress(split, "bytes")
        data = open_split(folder / split, copy=copy, trusted=trusted, progress=told)
    check_dataset(config.data.dataset, data)
    return data


def check_dataset(name: str, data: Index) -> None:
    """Raises RunError where the shards are not of the data set of that name."""
    if data.dataset != name:
        raise RunError(
            f"{data.folder} holds {data.dataset}, the configuration asks for {name}; set data.dataset, or "
            "data.root to another folder"
        )


def _fetched(config: Config, root: Remote, split: str) -> RemoteTarDataset:
    check_public(root.root)
    folder, window = config.data.cache, config.data.window
    assert window is not None  # checked with the configuration
    cache = Cache(Path(folder) if folder else default_folder(), int(config.data.cache_gb * 1e9))
    data = RemoteTarDataset(root / split, cache, window)
    if split == "train":
        _check_window(data.shard_of, window, config.train.global_batch)
    return data


def _check_window(shard_of: NDArray[np.int32], window: int, global_batch: int) -> None:
    """Ranks are up to a step apart: two steps must lie in two windows, which is what the cache has room for."""
    counts = np.sort(np.bincount(shard_of))
    if len(counts) > window and (least := int(counts[:window].sum())) < 2 * global_batch:
        raise RunError(
            f"data.window={window} can be {least} samples, fewer than two steps of train.global_batch={global_batch}; "
            "make data.window larger"
        )


def input_facts(data: Samples) -> Input:
    """What a model must know of the data that it was trained on, to see others as it saw those; and what their classes
    are called in words."""
    seen: Input = {"kind": data.kind.name, "shape": list(data.shape), "mean": list(data.mean), "std": list(data.std)}
    if data.class_titles:
        seen["titles"] = data.class_titles
    return seen


def as_samples(files: Sequence[Path], facts: Input, classes: Sequence[str], where: Path) -> FileSamples:
    """Files, or folders of them, as samples of the data that `input_facts` told of, as kept in `where`, which may be a
    stranger's. Raises RunError where those facts cannot be, DataError for a folder without such files."""
    try:
        channels, height, width = (int(side) for side in facts["shape"])
        mean, std = ([float(value) for value in values] for values in (facts["mean"], facts["std"]))
        kind = KINDS.get(facts["kind"])
        if not len(mean) == len(std) == channels or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std} of {channels} channels")
        if min(height, width) < 0 or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"shape {facts['shape']}, classes {classes}")
        titles = facts.get("titles", {})
        if not isinstance(titles, dict) or not all(isinstance(title, str) for title in titles.values()):
            raise ValueError(f"titles {titles!r:.40}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, DataError) as error:
        raise RunError(f"{where}: what it says of its data cannot be used ({first_line(error)})") from None
    return FileSamples(files, kind, (channels, height, width), mean, std, classes)


def settings(config: Config) -> Settings:
    """What the configuration says of how samples are seen and augmented."""
    asked = config.data
    steps = config.model.time_steps or entry_of(config.model.name).time_steps
    augment = AugmentSettings(**vars(asked.augment))
    return Settings(asked.size, asked.crop_ratio, asked.frames, steps, config.seed, augment)


def view(config: Config, data: Samples) -> Seen | None:
    """How the samples of `data` are brought to one size; None: pictures are taken as they are.

    Raises RunError where they have many sizes and the config names none.
    """
    with _of_the_configuration():
        return data.kind.view(data, settings(config))


def augmentation(config: Config, data: Samples) -> Augmentation | None:
    """The augmentation of training. Raises RunError for what cannot work on these samples."""
    check_kind(config.data, data)
    with _of_the_configuration():
        return data.kind.augmentation(data, settings(config))


def check_kind(asked: DataConfig, data: Samples) -> None:
    """Refuse settings that are for samples of another kind."""
    default, given = flat(DataConfig()), flat(asked)
    for key in given:
        if key in OF_A_KIND - data.kind.settings and given[key] != default[key]:
            raise RunError(
                f"data.{key} is not for {data.kind.name}, and that is what {data.folder} holds; leave it out"
            )


@contextmanager
def _of_the_configuration() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise RunError(str(error)) from error
