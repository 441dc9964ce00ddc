"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..classes import mapping
from ..errors import DataError
from .listing import Skipped, class_folders, listed
from .source import DATASETS, Dataset, Sample, Source, mark_of, mixed, readable
from .split import held_back

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation that the field uses for ImageNet, and for any folder of photographs."""

EXTENSIONS = {
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".png": "png",
    ".bmp": "bmp",
    ".pgm": "pgm",
    ".ppm": "ppm",
    ".tif": "tif",
    ".tiff": "tif",
    ".webp": "webp",
}
"""The suffixes of pictures, those of torchvision's ImageFolder, and what they are called in a shard."""


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """SOURCE/train and SOURCE/val (or validation, or test), each with a folder of files, pictures, for each class.

    val_share: SOURCE, or SOURCE/train, is not split, and so much of it is held back to test on; see split.py.
    """

    suffixes: tuple[str, ...] = field(default=tuple(EXTENSIONS), kw_only=True)
    val_share: float | None = field(default=None, kw_only=True)

    def held_back(self, share: float) -> Dataset:
        return replace(self, val_share=share)

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None:
            raise DataError(f"{self.name} is read from a folder of yours; give it with --source (data.source)")
        if self.val_share is not None:
            return self._opened(self._divided(split, source, self.val_share))
        folders = split_folders(source)
        missing = next((k for k, v in folders.items() if v is None), None)
        if missing is not None:
            raise DataError(
                f"{source} has no folder {' or '.join(_SPLITS[missing])} with a folder for each class; --val-share 0.1 "
                "holds back a tenth of one that is not split"
            )
        train, folder = folders["train"], folders[split]
        assert train is not None and folder is not None
        skipped = Skipped()
        classes = class_folders(train)
        class_folders(folder, skipped)  # what lies beside them
        for other in (place for place in folders.values() if place):
            mapping(classes, class_folders(other), str(train), str(other))
        names, labels = self._listed(train, folder, classes, skipped)
        for other in (source / name for name in _SPLITS[split] if source / name != folder and (source / name).is_dir()):
            skipped.add(f"folders, because {folder.name} comes first", other)
        order = mixed(len(names))
        return self._opened(Files(folder, classes, names[order], labels[order], skipped))

    def _listed(
        self, train: Path, folder: Path, classes: tuple[str, ...], skipped: Skipped
    ) -> tuple[NDArray[np.bytes_], NDArray[np.int32]]:
        """The files of each class of `train` in `folder`. Raises DataError where one has none."""
        odd = next((name for name in classes if not _is_text(name)), None)
        if odd is not None:
            raise DataError(f"{train / odd} is a class whose name is not UTF-8; rename it")
        names, labels = listed(folder, classes, self.suffixes, skipped)
        counts = np.bincount(labels, minlength=len(classes))
        if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
            why = Skipped()
            listed(folder, empty, self.suffixes, why)
            places = ", ".join(str(folder / name) for name in empty)
            raise DataError(f"{places}: nothing to read ({why or 'no files'}); fill it, or remove the folder")
        return names, labels

    def _divided(self, split: str, source: Path, share: float) -> Files:
        """Of a folder that is not split: what is held back, or the rest. Raises DataError where nothing is, or all of a
        class."""
        folders = split_folders(source)
        if (there := folders["test"]) is not None:
            raise DataError(f"{source} is split already, {there.name} is to test on; leave --val-share out")
        folder, skipped = folders["train"] or source, Skipped()
        classes = class_folders(folder, skipped)
        if not classes:
            raise DataError(f"{folder} has no folders, one for each class; put the files of each class into one")
        names, labels = self._listed(folder, folder, classes, skipped)
        held = [held_back(name, names[labels == i], share) for i, name in enumerate(classes)]
        if whole := [str(folder / name) for name, of in zip(classes, held, strict=True) if of.all()]:
            raise DataError(f"{', '.join(whole)}: all of it would be held back; a smaller --val-share than {share:g}")
        if not any(of.any() for of in held):
            raise DataError(
                f"{folder}: none of its {len(names)} files is held back; a larger --val-share than {share:g}"
            )
        for name in (name for name, of in zip(classes, held, strict=True) if split == "test" and not of.any()):
            skipped.add("classes of which nothing is held back", folder / name)
        taken = np.concatenate(held) == (split == "test")
        order = mixed(int(taken.sum()))
        return Files(folder, classes, names[taken][order], labels[taken][order], skipped)

    def _opened(self, files: Files) -> Source:
        return files


_SPLITS = {"train": ("train",), "test": ("val", "validation", "test")}
"""The folders that a split may be in. `val` comes first, because where there is a `test` too it is held back, and often
has no labels."""


def split_folders(source: Path) -> dict[str, Path | None]:
    """The folder of each split, None where there is none."""
    return {k: next((source / n for n in v if (source / n).is_dir()), None) for k, v in _SPLITS.items()}


def _is_text(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS


@dataclass(frozen=True)
class Files:
    """FOLDER/CLASS/NAME, as `listed`; NAME may have folders in it."""

    folder: Path
    class_names: tuple[str, ...]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    skipped: Skipped = field(default_factory=Skipped)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        path = self.path(i)
        with readable(path):
            return Sample(
                f"{i:08d}", path.read_bytes(), EXTENSIONS[path.suffix.lower()], int(self.labels[i]), str(path)
            )

    def mark(self, i: int) -> str:
        path = self.path(i)
        return mark_of(path, int(self.labels[i]))

    def path(self, i: int) -> Path:
        name: bytes = self.names[i]
        return self.folder / self.class_names[int(self.labels[i])] / os.fsdecode(name)


FOLDER = DATASETS.register(FolderDataset("folder", (3, 0, 0), *IMAGENET_STATISTICS))
