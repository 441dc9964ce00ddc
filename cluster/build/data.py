"""What a configuration makes of a data set: the reader, what is seen of its samples, their augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.loader import Augmentation
from pipelines.remote import Remote, check_public
from pipelines.samples import Samples, Seen, has_events
from pipelines.store.beton import BetonDataset
from pipelines.store.cache import Cache, default_folder
from pipelines.store.index import INDEX, Index, class_names
from pipelines.store.tars import RemoteTarDataset, TarDataset
from pipelines.views.augment import Augment
from pipelines.views.boxes import View
from pipelines.views.frames import OPERATIONS, EventAugment, FrameView
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
    return train, test


def opened(config: Config, split: str) -> Samples:
    """One of the two. Of the other only the names of the classes are read, where it lies on this machine."""
    data, folder = _read(config, split), config.data.folder
    if isinstance(folder, Path) and (folder / "train" / INDEX).is_file():
        data.number_as(class_names(folder / "train"), str(folder / "train"))
    return data


def _read(config: Config, split: str, trusted: bool = False) -> TarDataset | RemoteTarDataset | BetonDataset:
    folder = config.data.folder
    if isinstance(folder, Path):
        check_written(config, folder, split)
    if isinstance(folder, Remote):
        data: TarDataset | RemoteTarDataset | BetonDataset = _fetched(config, folder, split)
    elif config.data.format == "ffcv":
        data = BetonDataset(folder / split, progress(split, "bytes"), trusted)
    else:
        data = TarDataset(folder / split, trusted)
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


def view(config: Config, data: Samples) -> Seen | None:
    """How the samples of `data` are brought to one size; None: pictures are taken as they are.

    Raises RunError where they have many sizes and the config names none.
    """
    size, augment, (_, *sensor) = config.data.size, config.data.augment, data.shape
    if size is None and not all(sensor):
        kind, example = ("recordings", 128) if has_events(data) else ("pictures", 224)
        raise RunError(f"the {kind} in {data.folder} have many sizes; set data.size, such as data.size={example}")
    if has_events(data):
        if size is not None and all(sensor) and size > min(sensor):
            raise RunError(f"data.size={size} exceeds the {sensor[0]} x {sensor[1]} pixels of the events; set it null")
        steps = config.model.time_steps or entry_of(config.model.name).time_steps
        return FrameView(steps, config.data.frames, (size, size) if size else (sensor[0], sensor[1]))
    if size is not None:
        return View(size, augment.scale, augment.ratio, config.data.crop_ratio, config.seed)
    return None


def augmentation(config: Config, data: Samples) -> Augmentation:
    """The augmentation of training. Raises DataError or RunError for what cannot work on these samples."""
    asked, grey = config.data.augment, data.shape[0] == 1
    check_kind(config.data, data)
    if has_events(data):
        operations = OPERATIONS if asked.events else ("identity",)
        return EventAugment(flip=asked.flip, seed=config.seed, operations=operations)
    if grey and (asked.rand_augment or asked.color_jitter):
        raise RunError(
            f"data.augment.rand_augment and color_jitter work on colours, and the pictures in {data.folder} are grey; "
            "set data.augment.rand_augment=null and data.augment.color_jitter=0"
        )
    return Augment(
        crop_padding=asked.crop_padding,
        flip=asked.flip,
        erasing=asked.erasing,
        seed=config.seed,
        rand_augment=asked.rand_augment,
        rand_augment_ops=tuple(asked.rand_augment_ops) if asked.rand_augment_ops else None,
        color_jitter=asked.color_jitter,
        erasing_mode=asked.erasing_mode,
        mean=tuple(data.mean),
        std=tuple(data.std),
    )


def check_kind(asked: DataConfig, data: Samples) -> None:
    """Refuse what is for pictures on events, and the other way round."""
    default, given = flat(DataConfig()), flat(asked)
    for_events = {"frames", "augment.events"}
    for_pictures = {k for k in given if k.startswith("augment.")} - for_events - {"augment.flip"} | {"crop_ratio"}
    kind, wrong = ("events", for_pictures) if has_events(data) else ("pictures", for_events)
    for key in given:
        if key in wrong and given[key] != default[key]:
            raise RunError(f"data.{key} is not for {kind}, and that is what {data.folder} holds; leave it out")
