"""The kinds of samples by name: pictures, events, and those of others.

What a kind needs of views is imported when it is asked for: an index is also read where no sample is.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from . import events
from .errors import DataError
from .registry import Registry
from .samples import Augmentation, Kind, Samples, Seen
from .settings import OF_A_KIND, Settings

KINDS: Registry[Kind] = Registry("kind of sample")
FOR_EVENTS = frozenset({"frames", "augment.events", "augment.flip"})


class Pictures(Kind):
    """Files of pictures in colour or grey."""

    name = "pictures"
    pictures = True
    settings = OF_A_KIND - FOR_EVENTS | {"augment.flip"}

    @property
    def suffixes(self) -> Collection[str]:
        from .raw.folders import EXTENSIONS

        return tuple(EXTENSIONS)

    def measure(self, content: bytes, channels: int, max_pixels: int) -> tuple[int, int, int]:
        from .views.pictures import decode

        _, height, width = decode(content, channels, max_pixels).shape
        return channels, height, width

    def view(self, data: Samples, settings: Settings) -> Seen | None:
        from .views.boxes import View

        _, *sides = data.shape
        if settings.size is None:
            if not all(sides):
                raise DataError(f"the pictures in {data.folder} have many sizes; set data.size, such as data.size=224")
            return None
        augment = settings.augment
        return View(settings.size, augment.scale, augment.ratio, settings.crop_ratio, settings.seed)

    def augmentation(self, data: Samples, settings: Settings) -> Augmentation:
        from .views.augment import Augment

        channels, *_ = data.shape
        asked = settings.augment
        if channels == 1 and (asked.rand_augment or asked.color_jitter):
            raise DataError(
                f"data.augment.rand_augment and color_jitter work on colours, and the pictures in {data.folder} are "
                "grey; set data.augment.rand_augment=null and data.augment.color_jitter=0"
            )
        return Augment(
            crop_padding=asked.crop_padding,
            flip=asked.flip,
            erasing=asked.erasing,
            seed=settings.seed,
            rand_augment=asked.rand_augment,
            rand_augment_ops=tuple(asked.rand_augment_ops) if asked.rand_augment_ops else None,
            color_jitter=asked.color_jitter,
            erasing_mode=asked.erasing_mode,
            mean=tuple(data.mean),
            std=tuple(data.std),
        )


class EventStreams(Kind):
    """Recordings of an event camera, as `events.encode` writes them, seen as frames of counts."""

    name = "events"
    frames = True
    settings = FOR_EVENTS

    @property
    def suffixes(self) -> Collection[str]:
        from .raw.recorded import SUFFIXES

        return SUFFIXES

    def content(self, path: Path) -> bytes:
        """Of a recording, whole."""
        from .raw import recordings

        return events.encode(recordings.read(path))

    def measure(self, content: bytes, channels: int, max_pixels: int) -> tuple[int, int, int]:
        recording = events.decode(content)
        return 2, recording.height, recording.width

    def view(self, data: Samples, settings: Settings) -> Seen:
        from .views.frames import FrameView

        size, (_, height, width) = settings.size, data.shape
        one_sensor = height > 0 and width > 0
        if size is None and not one_sensor:
            raise DataError(f"the recordings in {data.folder} have many sizes; set data.size, such as data.size=128")
        if size is not None and one_sensor and size > min(height, width):
            raise DataError(f"data.size={size} exceeds the {height} x {width} pixels of the events; set it null")
        return FrameView(settings.time_steps, settings.frames, (size, size) if size else (height, width))

    def augmentation(self, data: Samples, settings: Settings) -> Augmentation:
        from .views.frames import OPERATIONS, EventAugment

        operations = OPERATIONS if settings.augment.events else ("identity",)
        return EventAugment(flip=settings.augment.flip, seed=settings.seed, operations=operations)


PICTURES = KINDS.register(Pictures())
EVENTS = KINDS.register(EventStreams())


def unnamed(channels: int) -> Kind:
    """Of shards whose index names no kind, as all did once: two channels are OFF and ON, others are colours."""
    return EVENTS if channels == 2 else PICTURES
