"""Data: from archives and folders to batches, in an order that is a pure function of (seed, epoch).

What is named here is what a user of the loaders needs. A name is imported when it is asked for, because some bring
torch and Pillow, and who only needs DataError waits for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import DamagedSample, DataError
from .lazy import offered

if TYPE_CHECKING:
    from .kinds import EVENTS, KINDS, PICTURES
    from .loader import Batch, eval_loader, time_first, to_device, train_loader
    from .order import Cursor, Share
    from .raw.arrays import ArrayDataset
    from .raw.catalog import DATASETS
    from .raw.folders import FolderDataset
    from .raw.recorded import EventDataset, EventFolder
    from .raw.source import Dataset, Sample, Source
    from .remote import Patience, Remote
    from .samples import Augmentation, Encoded, InTwo, Kind, Samples, Seen
    from .settings import AugmentSettings, Settings
    from .store.cache import Cache
    from .store.opening import open_split
    from .store.tar_writer import write
    from .views.augment import Augment
    from .views.boxes import View
    from .views.files import FileSamples
    from .views.frames import EventAugment, FrameView
    from .views.mix import mix, soft_targets
    from .workers import Workers

_PLACES = {
    "kinds": ("EVENTS", "KINDS", "PICTURES"),
    "loader": ("Batch", "eval_loader", "time_first", "to_device", "train_loader"),
    "order": ("Cursor", "Share"),
    "raw.arrays": ("ArrayDataset",),
    "raw.catalog": ("DATASETS",),
    "raw.folders": ("FolderDataset",),
    "raw.recorded": ("EventDataset", "EventFolder"),
    "raw.source": ("Dataset", "Sample", "Source"),
    "remote": ("Patience", "Remote"),
    "samples": ("Augmentation", "Encoded", "InTwo", "Kind", "Samples", "Seen"),
    "settings": ("AugmentSettings", "Settings"),
    "store.cache": ("Cache",),
    "store.opening": ("open_split",),
    "store.tar_writer": ("write",),
    "views.augment": ("Augment",),
    "views.boxes": ("View",),
    "views.files": ("FileSamples",),
    "views.frames": ("EventAugment", "FrameView"),
    "views.mix": ("mix", "soft_targets"),
    "workers": ("Workers",),
}

__all__ = [
    "DATASETS",
    "EVENTS",
    "KINDS",
    "PICTURES",
    "ArrayDataset",
    "Augment",
    "AugmentSettings",
    "Augmentation",
    "Batch",
    "Cache",
    "Cursor",
    "DamagedSample",
    "DataError",
    "Dataset",
    "Encoded",
    "EventAugment",
    "EventDataset",
    "EventFolder",
    "FileSamples",
    "FolderDataset",
    "FrameView",
    "InTwo",
    "Kind",
    "Patience",
    "Remote",
    "Sample",
    "Samples",
    "Seen",
    "Settings",
    "Share",
    "Source",
    "View",
    "Workers",
    "eval_loader",
    "mix",
    "open_split",
    "soft_targets",
    "time_first",
    "to_device",
    "train_loader",
    "write",
]

__getattr__ = offered(__name__, _PLACES)


def __dir__() -> list[str]:
    return __all__
