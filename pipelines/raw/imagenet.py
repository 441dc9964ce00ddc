"""ILSVRC 2012 as it is downloaded: pictures read by offset out of its archives, labels from its development kit."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .folders import EXTENSIONS, IMAGENET_STATISTICS, FolderDataset, is_picture, split_folders
from .source import DATASETS, Dataset, Sample, Source, mixed

TRAIN, VALIDATION, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = (f"ILSVRC2012_devkit_t12/data/{n}" for n in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"))
AGAIN = "download it again"


@dataclass(frozen=True)
class ImageNet(FolderDataset):
    """ILSVRC 2012: its archives in SOURCE, as downloaded, or folders as FolderDataset has them."""

    def held_back(self, share: float) -> Dataset:
        return Dataset.held_back(self, share)

    def _open(self, split: str, source: Path | None) -> Source:
        if source is None or all(split_folders(source).values()):
            return super()._open(split, source)
        return read_archives(split, source)


@dataclass(frozen=True)
class Pictures:
    """A split as places in an archive, `[n]` each (a Source); nothing is unpacked."""

    archive: Path
    class_names: tuple[str, ...]
    class_titles: tuple[str, ...]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        name, size = os.fsdecode(self.names[i]), int(self.sizes[i])
        with _whole(self.archive):
            content = os.pread(self._file.fileno(), size, int(self.offsets[i]))
            if len(content) != size:
                raise EOFError(f"{name} is cut")
        extension = EXTENSIONS[Path(name).suffix.lower()]
        return Sample(f"{i:08d}", content, extension, int(self.labels[i]), f"{self.archive}: {name}")

    def mark(self, i: int) -> str:
        return f"{self.names[i]} {self.labels[i]} {self.offsets[i]} {self.sizes[i]} {self._state}"

    @cached_property
    def _file(self) -> io.FileIO:
        return io.FileIO(self.archive)  # pread has no position, so forked writers may share it

    @cached_property
    def _state(self) -> tuple[int, int]:
        facts = os.fstat(self._file.fileno())
        return facts.st_size, facts.st_mtime_ns


@dataclass(frozen=True)
class Kit:
    """The development kit: classes sorted by WNID, in words, with their numbers of training pictures, and the label
    of each validation picture by its number - 1."""

    wnids: tuple[str, ...]
    titles: tuple[str, ...]
    counts: tuple[int, ...]
    truth: tuple[int, ...]


def read_archives(split: str, source: Path) -> Pictures:
    """Split train or test (validation) of the three archives in `source`. Raises DataError, naming what is wrong."""
    missing = [name for name in (TRAIN, VALIDATION, KIT) if not (source / name).is_file()]
    if len(missing) == 3:
        raise DataError(
            f"{source} has neither folders train and val, with a folder for each class, nor the archives "
            f"{TRAIN}, {VALIDATION} and {KIT}; name the folder that has"
        )
    if missing:
        raise DataError(f"{source / missing[0]} is missing beside the other archives; download it too")
    kit = read_kit(source / KIT)
    read, archive = {"train": (_train, source / TRAIN), "test": (_validation, source / VALIDATION)}[split]
    names, labels, offsets, sizes = read(archive, kit)
    order = np.lexsort((names, labels))[mixed(len(names))]  # as the unpacked folders are read
    return Pictures(archive, kit.wnids, kit.titles, names[order], labels[order], offsets[order], sizes[order])


Table = tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Names, labels, offsets and sizes."""


def _train(archive: Path, kit: Kit) -> Table:
    labels, parts = {wnid: label for label, wnid in enumerate(kit.wnids)}, {}
    with _whole(archive), tarfile.open(archive, "r:") as tar:
        for member in tar:
            wnid = member.name.removesuffix(".tar")
            if wnid not in labels:
                raise DataError(f"{archive} holds {member.name}, which is no class of {KIT}; {AGAIN}")
            with _whole(archive, member.name), tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                found = [(m.name, member.offset_data + m.offset_data, m.size) for m in inner if is_picture(m.name)]
            parts[wnid] = _table([(name, labels[wnid], offset, size) for name, offset, size in found])
    for wnid, count in zip(kit.wnids, kit.counts, strict=True):
        if wnid not in parts:
            raise DataError(f"{archive} has no {wnid}.tar, only {len(parts)} of {len(kit.wnids)} classes; {AGAIN}")
        if len(parts[wnid][0]) != count:
            raise DataError(f"{archive}: {wnid}.tar has {len(parts[wnid][0])} pictures instead of {count}; {AGAIN}")
    names, numbers, offsets, sizes = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
    return names, numbers, offsets, sizes


def _validation(archive: Path, kit: Kit) -> Table:
    with _whole(archive), tarfile.open(archive, "r:") as tar:
        found = [(m.name, m.offset_data, m.size) for m in tar if is_picture(m.name)]
    numbers = [int(match[1]) if (match := re.search(r"_(\d+)\.\w+$", name)) else 0 for name, _, _ in found]
    lines = f"{Path(TRUTH).name} in {KIT} has {len(kit.truth)} lines; download both again"
    for (name, _, _), number in zip(found, numbers, strict=True):
        if not 1 <= number <= len(kit.truth):
            raise DataError(f"{archive}: {name} has no label, {lines}")
    if len(found) != len(kit.truth):
        raise DataError(f"{archive} has {len(found)} pictures, {lines}")
    return _table([(n, kit.truth[number - 1], o, s) for (n, o, s), number in zip(found, numbers, strict=True)])


def _table(rows: list[tuple[str, int, int, int]]) -> Table:
    names, labels, offsets, sizes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        np.array([os.fsencode(name) for name in names], np.bytes_),
        np.array(labels, np.int32),
        np.array(offsets, np.int64),
        np.array(sizes, np.int64),
    )


def read_kit(path: Path) -> Kit:
    """The struct `synsets` of meta.mat (its leaves are the classes) and the validation labels. Raises DataError."""
    from scipy.io import loadmat  # which takes its time

    with _whole(path), tarfile.open(path) as tar:
        meta, truth = (member.read() for name in (META, TRUTH) if (member := tar.extractfile(name)))
    try:
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"])
        leaves = sorted(
            (str(s["WNID"]), str(s["words"]), int(s["num_train_images"]), int(s["ILSVRC2012_ID"]))
            for s in synsets
            if not s["num_children"]
        )
        wnids, titles, counts, ids = zip(*leaves, strict=True)
    except Exception as error:  # scipy raises a dozen kinds
        raise DataError(f"{path}: {META} cannot be read ({type(error).__name__}); {AGAIN}") from error
    labels = {str(number): label for label, number in enumerate(ids)}
    lines = truth.decode("ascii", "replace").split()
    wrong = next((i for i, line in enumerate(lines) if line not in labels), None)
    if wrong is not None:
        raise DataError(f"{path}: line {wrong + 1} of {TRUTH} is {lines[wrong]!r}, which is no class; {AGAIN}")
    return Kit(wnids, titles, counts, tuple(labels[line] for line in lines))


@contextmanager
def _whole(path: Path, part: str = "") -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        where = f"{path}: {part}" if part else path
        raise DataError(f"{where} cannot be read ({type(error).__name__}: {error}); {AGAIN}") from error


IMAGENET = DATASETS.register(
    ImageNet("imagenet", (3, 0, 0), *IMAGENET_STATISTICS, counts=(1_281_167, 50_000), classes=1_000)
)
