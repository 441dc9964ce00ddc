"""The data sets of event cameras: which recording, or which part of one, is a sample."""

from __future__ import annotations

from pathlib import Path

from ..draws import RECORDINGS
from ..errors import DataError
from .recorded import COUNTS, EventDataset, Part
from .recordings import AGAIN, DVS128_GESTURE_CLASSES, SIDE, read_labels, read_text
from .source import DATASETS

CIFAR10_DVS_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DVS128 = (2, SIDE, SIDE)


def cifar10_dvs(split: str, folder: Path) -> list[Part]:
    """CIFAR10-DVS, a folder for each class with cifar10_CLASS_NUMBER.aedat, mixed by a fixed permutation.

    The data set has no split of its own. This is the one of Spikformer and QKFormer, spikingjelly's
    split_to_train_test_set(0.9): of each class the first 90 % of the names in alphabetical order (0, 1, 10, 100, ...)
    are for training. Raises DataError.
    """
    files = {name: sorted((folder / name).glob("*.aedat")) for name in CIFAR10_DVS_CLASSES}
    sizes = {name: len(paths) for name, paths in files.items()}
    # A recording that is missing would move others from one split to the other.
    short = min(sizes, key=lambda name: sizes[name])
    if sizes[short] < max(sizes.values()) or not sizes[short]:
        raise DataError(
            f"{folder / short} has {sizes[short]} .aedat files, other classes {max(sizes.values())}; {AGAIN}"
        )
    cut = -(-9 * sizes[short] // 10)  # rounded up
    part = slice(cut) if split == "train" else slice(cut, None)
    parts = [Part(path, label) for label, name in enumerate(CIFAR10_DVS_CLASSES) for path in files[name][part]]
    return [parts[i] for i in RECORDINGS.order(len(parts), 0)]


def dvs128_gesture(split: str, folder: Path) -> list[Part]:
    """DVS128 Gesture, in the order of trials_to_train.txt or trials_to_test.txt: the parts of a recording, which are of
    all classes, are neighbours.

    A sample is one row of the recording's *_labels.csv, as in spikingjelly: 1176 and 288 samples. Raises DataError.
    """
    trials = read_text(folder / f"trials_to_{split}.txt").split()
    if not trials:
        raise DataError(f"{folder / f'trials_to_{split}.txt'} names no recordings; {AGAIN}")
    return [
        Part(folder / name, label, start, end)
        for name in trials
        for label, start, end in read_labels((folder / name).with_name(f"{Path(name).stem}_labels.csv"))
    ]


CIFAR10_DVS = DATASETS.register(
    EventDataset("cifar10_dvs", DVS128, *COUNTS, CIFAR10_DVS_CLASSES, cifar10_dvs, counts=(9_000, 1_000))
)
DVS128_GESTURE = DATASETS.register(
    EventDataset("dvs128_gesture", DVS128, *COUNTS, DVS128_GESTURE_CLASSES, dvs128_gesture, counts=(1_176, 288))
)
