"""What a configuration makes of a data set: the reader, what is seen of its samples, their augmentation."""

from __future__ import annotations

from pipelines.augment import Augment
from pipelines.boxes import View
from pipelines.ffcv import BetonDataset
from pipelines.frames import OPERATIONS, EventAugment, FrameView
from pipelines.loader import Augmentation
from pipelines.samples import Samples, Seen, has_events
from pipelines.webdataset import TarDataset
from tdformer.registry import entry_of

from .config import Config, DataConfig, flat
from .errors import RunError
from .progress import progress


def opened(config: Config, split: str) -> Samples:
    """The samples of `train` or `test`. Raises DataError where they are not whole."""
    folder = config.data.folder / split
    return BetonDataset(folder, progress(split, "bytes")) if config.data.format == "ffcv" else TarDataset(folder)


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
    _check_kind(config.data, data)
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


def _check_kind(asked: DataConfig, data: Samples) -> None:
    """Refuse what is for pictures on events, and the other way round."""
    default, given = flat(DataConfig()), flat(asked)
    for_events = {"frames", "augment.events"}
    for_pictures = {k for k in given if k.startswith("augment.")} - for_events - {"augment.flip"} | {"crop_ratio"}
    kind, wrong = ("events", for_pictures) if has_events(data) else ("pictures", for_events)
    for key in given:
        if key in wrong and given[key] != default[key]:
            raise RunError(f"data.{key} is not for {kind}, and that is what {data.folder} holds; leave it out")
