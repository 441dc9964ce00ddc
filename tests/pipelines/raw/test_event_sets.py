"""Data sets of recordings: which events are a sample, and from the cameras' files to frames."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from event_files import HEADER3, aedat2, gestures, packet

from pipelines import order
from pipelines.errors import DataError
from pipelines.events import Events, decode
from pipelines.loader import eval_loader, time_first, to_device, train_loader
from pipelines.raw import catalog, recordings
from pipelines.raw import event_sets as eventsets
from pipelines.raw.source import Source
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset
from pipelines.views.frames import EventAugment, FrameView, integrate
from pipelines.views.mix import mix, soft_targets

DVS = catalog.get("cifar10_dvs")
GESTURE = catalog.get("dvs128_gesture")
VIEW = FrameView(4, "count", (16, 16))


def samples(source: Source) -> list[tuple[str, Events, int]]:
    """Name, events and label of each."""
    read = [source[i] for i in range(len(source))]
    return [(s.name, decode(s.content), s.label) for s in read]


def rows(events: Events) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in row) for row in zip(events.t, events.x, events.y, events.p, strict=True)]


# CIFAR10-DVS


@pytest.fixture
def cifar10_dvs(tmp_path: Path) -> Path:
    """Eleven recordings a class; the time of the first event tells which one it is."""
    source = tmp_path / "source"
    for label, name in enumerate(eventsets.CIFAR10_DVS_CLASSES):
        (source / name).mkdir(parents=True)
        for number in range(11):
            stamp = 100 * label + number
            (source / name / f"cifar10_{name}_{number}.aedat").write_bytes(aedat2([(stamp, label, number, 0)]))
    return source


def test_cifar10_dvs_is_split_by_name_in_each_class(cifar10_dvs):
    train, test = (samples(DVS.open(split, cifar10_dvs)) for split in ("train", "test"))
    assert sorted(label for *_, label in train) == [label for label in range(10) for _ in range(10)]
    assert [label for *_, label in train[:10]] != [0] * 10  # mixed
    # 0, 1, 10, 2, ..., 8 are the first ceil(9.9) names in alphabetical order
    assert sorted(name for name, *_ in test) == sorted(
        str(cifar10_dvs / name / f"cifar10_{name}_9.aedat") for name in eventsets.CIFAR10_DVS_CLASSES
    )
    assert len({name for name, *_ in train + test}) == 110
    for name, events, label in train + test:
        number = int(Path(name).stem.split("_")[2])
        assert rows(events) == [(100 * label + number, 127 - number, 127 - label, 1)]


def test_cifar10_dvs_faults(cifar10_dvs, tmp_path):
    with pytest.raises(DataError, match="no split 'val'; choose one of train, test"):
        DVS.open("val", cifar10_dvs)
    with pytest.raises(DataError, match="give its folder with --source"):
        DVS.open("train")
    with pytest.raises(DataError, match="airplane has 0 .aedat files"):
        DVS.open("train", tmp_path / "nowhere")
    damaged = cifar10_dvs / "cat" / "cifar10_cat_3.aedat"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{damaged} ends at byte") as error:
        shards.write(DVS, "train", tmp_path / "shards", source=cifar10_dvs, processes=2, samples_per_shard=30)
    assert "\n" not in str(error.value) and not (tmp_path / "shards/train").exists()
    damaged.unlink()
    with pytest.raises(DataError, match="cat has 10 .aedat files, other classes 11"):
        DVS.open("train", cifar10_dvs)


# DVS128 Gesture

LABELS = "class,startTime_usec,endTime_usec\n3,10,20\n3,20,31\n\n11,30,41\n"


@pytest.fixture
def gesture(tmp_path: Path) -> Path:
    (tmp_path / "trials_to_train.txt").write_text("user02_led.aedat\nuser01_lab.aedat\n\n")
    (tmp_path / "trials_to_test.txt").write_text("user24_lab.aedat\r\n")
    for name in ("user02_led", "user01_lab", "user24_lab"):
        events = [(t, t, t // 2, t % 2) for t in range(0, 50, 5)]
        (tmp_path / f"{name}.aedat").write_bytes(HEADER3 + packet(events[:4]) + packet(events[4:]))
        (tmp_path / f"{name}_labels.csv").write_text(LABELS)
    return tmp_path


def test_gestures_are_cut_by_their_labels(gesture):
    """Half open, overlaps allowed, classes 1..11 as labels 0..10, in the order of the trials."""
    train = samples(GESTURE.open("train", gesture))
    assert [name for name, *_ in train[:3]] == [
        f"{gesture}/user02_led.aedat from {a} to {b} us" for a, b in ((10, 20), (20, 31), (30, 41))
    ]
    assert all("user01_lab" in name for name, *_ in train[3:])
    assert [label for *_, label in train] == [2, 2, 10] * 2
    assert [events.t.tolist() for _, events, _ in train] == [[10, 15], [20, 25, 30], [30, 35, 40]] * 2
    assert rows(train[0][1]) == [(10, 10, 5, 0), (15, 15, 7, 1)]
    assert [label for *_, label in samples(GESTURE.open("test", gesture))] == [2, 2, 10]


def test_a_recording_is_read_once_for_its_parts(gesture):
    """It is gone after its first part was read, and the others still come; another recording takes its place."""
    source = GESTURE.open("train", gesture)
    first = source[0]
    (gesture / "user02_led.aedat").unlink()
    assert source[2].content != first.content and source[0] == first
    source[3]
    with pytest.raises(DataError, match="user02_led.aedat is missing"):
        source[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "does not begin with class,startTime_usec,endTime_usec"),
        ("1,10,20\n", "does not begin with class"),
        ("class,startTime_usec,endTime_usec\n", "no gestures"),
        (LABELS + "1,10\n", "'1,10' in row 4, not three whole numbers"),
        (LABELS + "1,10,x\n", "'1,10,x' in row 4"),
        (LABELS + "12,10,20\n", "class 12 from 10 to 20 us in row 4"),
        (LABELS + "0,10,20\n", "class 0 "),
        (LABELS + "1,20,20\n", "class 1 from 20 to 20 us"),
        (LABELS + "1,41,44\n", "user24_lab.aedat from 41 to 44 us has no events"),
        ("\0\xff", "does not begin with class"),
    ],
)
def test_gesture_label_faults(gesture, labels, message):
    (gesture / "user24_lab_labels.csv").write_text(labels)
    with pytest.raises(DataError, match=message) as error:
        samples(GESTURE.open("test", gesture))
    assert "user24_lab" in str(error.value) and "\n" not in str(error.value) and "; " in str(error.value)


def test_gesture_folder_faults(gesture):
    for name in ("user02_led.aedat", "user01_lab_labels.csv", "trials_to_train.txt"):
        (gesture / name).rename(gesture / "away")
        with pytest.raises(DataError, match=f"{name} is missing"):
            samples(GESTURE.open("train", gesture))
        (gesture / "away").rename(gesture / name)
    (gesture / "trials_to_train.txt").write_text("\n")
    with pytest.raises(DataError, match="trials_to_train.txt names no recordings"):
        GESTURE.open("train", gesture)


# From files to frames


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gestures") / "source"
    gestures(folder, {"train": 4, "test": 2})
    return folder


@pytest.fixture(scope="module")
def written(source: Path) -> Path:
    return shards.write(GESTURE, "train", source.parent / "shards", source=source, samples_per_shard=4, processes=2)


def test_no_event_is_lost_from_the_file_to_the_frames(written: Path, source: Path) -> None:
    data = TarDataset(written)
    assert shards.verify(written) == len(data) == 16 and data.shape == (2, 128, 128)
    parts = eventsets.dvs128_gesture("train", source)
    for i, part in enumerate(parts):
        events = recordings.read_aedat3(part.path)
        inside = (events.t >= part.start) & (events.t < part.end)
        assert inside.sum() == 200 and data.labels[i] == part.label
        assert rows(data.decoded(i, decode)) == [row for row, kept in zip(rows(events), inside, strict=True) if kept]
    for view in (VIEW, replace(VIEW, by="time"), FrameView(1, "count", (128, 128))):
        for batch in eval_loader(data, rank=0, world=1, batch_size=5, workers=0, view=view):
            assert batch.images.dtype == torch.int16 and batch.images.shape[1:] == (view.time_steps, 2, *view.grid)
            assert batch.images.sum((1, 2, 3, 4)).tolist() == [200] * len(batch.ids)


def test_processes_and_going_on_write_the_same_bytes(written: Path, source: Path, tmp_path: Path) -> None:
    """Stopped by a damaged recording, it keeps the shards before it."""
    shutil.copytree(source, tmp_path / "source")
    path = tmp_path / "source/user02_lab.aedat"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    write = {"source": tmp_path / "source", "samples_per_shard": 4}
    with pytest.raises(DataError, match="user02_lab.aedat ends in the packet at byte"):
        shards.write(GESTURE, "train", tmp_path / "out", **write)
    kept = sorted((tmp_path / "out/.train.tmp").glob("*.tar"))[:2]
    before = [tar.stat().st_mtime_ns for tar in kept]
    path.write_bytes(whole)
    folder = shards.write(GESTURE, "train", tmp_path / "out", **write)
    assert [(folder / tar.name).stat().st_mtime_ns for tar in kept] == before
    for file in written.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("augment", [EventAugment(seed=3), EventAugment(flip=1.0, operations=("identity",))])
def test_frames_of_an_epoch_are_the_same_on_any_ranks_and_workers(written: Path, augment: EventAugment) -> None:
    data = TarDataset(written)
    cursor = order.Cursor(5, 1, 0, 8, data.digest)

    def steps(world: int, workers: int) -> list[torch.Tensor]:
        micro = 8 // world // 2
        ranks = [
            train_loader(data, cursor, order.Share(micro, 2, r, world), augment=augment, workers=workers, view=VIEW)
            for r in range(world)
        ]
        at_once = [zip(*parts, strict=True) for parts in zip(*ranks, strict=True)]  # all ranks' first, their second
        return [torch.cat([b.images for micro in step for b in micro]) for step in at_once]

    expected = steps(1, 0)
    ids = order.permutation(5, 1, len(data)).reshape(2, 8)
    for images, batch in zip(expected, ids, strict=True):
        for image, i in zip(images, batch, strict=True):
            assert np.array_equal(image, augment(integrate(data.decoded(int(i), decode), 4, size=(16, 16)), 1, int(i)))
    for world, workers in ((1, 2), (2, 0), (4, 1)):
        assert all(torch.equal(a, b) for a, b in zip(steps(world, workers), expected, strict=True))


def test_a_damaged_sample_is_named_in_one_line(written: Path, tmp_path: Path) -> None:
    data = TarDataset(shutil.copytree(written, tmp_path / "copy"))
    content = bytearray(data.paths[1].read_bytes())
    content[int(data.table["offset"][6]) + 40] ^= 1
    data.paths[1].write_bytes(content)
    with pytest.raises(DataError, match="train-000001.tar: sample 6 is damaged") as error:
        list(eval_loader(data, rank=0, world=1, batch_size=4, workers=1, view=VIEW))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="train-000001.tar is damaged .first at sample 6"):
        shards.verify(tmp_path / "copy")


def test_counts_reach_the_model_as_they_are_with_time_first() -> None:
    counts = torch.randint(0, 2**15, (3, 4, 2, 5, 6), dtype=torch.int16)
    floats = time_first(to_device(counts, (0.0, 0.0), (1.0, 1.0), torch.device("cpu")))
    assert floats.dtype == torch.float32 and floats.is_contiguous()
    assert torch.equal(floats, counts.transpose(0, 1).float())
    pictures = torch.rand(3, 2, 5, 6)
    assert time_first(pictures) is pictures


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_all_time_steps_of_frames_are_mixed_as_one_picture_is(mixup: float, cutmix: float) -> None:
    frames, targets = torch.rand(6, 3, 2, 9, 7), soft_targets(torch.arange(6), 6)
    key = {"mixup": mixup, "cutmix": cutmix, "seed": 1, "epoch": 2, "step": 3, "position": 4}
    mixed, soft = mix(frames, targets, **key)
    for t in range(3):
        picture, same = mix(frames[:, t], targets, **key)
        assert torch.equal(mixed[:, t], picture) and torch.equal(soft, same)
    assert not torch.equal(mixed, frames)
