"""What a configuration makes of a data set: the reader, the boxes of its pictures that are seen, their augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.augment import Augment
from pipelines.boxes import View
from pipelines.cache import Cache, default_folder
from pipelines.remote import Remote
from pipelines.samples import Samples
from pipelines.webdataset import RemoteTarDataset, TarDataset

from .config import Config
from .errors import RunError


def opened(config: Config, split: str) -> Samples:
    """The samples of `train` or `test`. Raises DataError where they are not whole, RunError where the windows of a
    remote set are too small."""
    folder = config.data.folder
    return TarDataset(folder / split) if isinstance(folder, Path) else opened_remote(config, folder, split)


def opened_remote(config: Config, root: Remote, split: str) -> RemoteTarDataset:
    """The same, of shards that are not on a local disk."""
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


def view(config: Config, data: Samples) -> View | None:
    """How the pictures of `data` are brought to one size; None: they are taken as they are.

    Raises RunError where they have many sizes and the config names none.
    """
    size, augment = config.data.size, config.data.augment
    if size is not None:
        return View(size, augment.scale, augment.ratio, config.data.crop_ratio, config.seed)
    if not all(data.shape):
        raise RunError(f"the pictures in {data.folder} have many sizes; set data.size, such as data.size=224")
    return None


def augmentation(config: Config, data: Samples) -> Augment:
    """The augmentation of training. Raises DataError or RunError for what cannot work on these pictures."""
    asked, grey = config.data.augment, data.shape[0] == 1
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
