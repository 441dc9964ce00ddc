"""Recordings as samples: a whole one or a part, of any format and size."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from event_files import HEADER3, aedat2, packet

from pipelines.errors import DataError
from pipelines.events import decode
from pipelines.raw import catalog
from pipelines.raw.recorded import COUNTS, EventDataset, Part
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset
from pipelines.views.frames import FrameView


def test_a_folder_of_recordings_of_every_format_and_size(tmp_path):
    source = tmp_path / "source"
    for split in ("train", "test"):
        for name in ("left", "right"):
            (source / split / name).mkdir(parents=True)
    left, right = source / "train/left", source / "train/right"
    t, x, y, p = np.array([0, 1]), np.array([200, 3]), np.array([100, 0]), np.array([0, 1])
    np.savez(left / "a.npz", t=t, x=x, y=y, p=p, size=np.array([180, 240]))
    np.savez(left / "b.npz", t=t, x=x - 150 * (x > 150), y=y, p=p)
    (right / "c.aedat").write_bytes(aedat2([(5, 1, 2, 0)]))
    (right / "d.aedat").write_bytes(HEADER3 + packet([(6, 1, 2, 0), (7, 3, 4, 1)]))
    shutil.copy(left / "a.npz", source / "test/right")
    data = TarDataset(shards.write(catalog.get("events"), "train", tmp_path / "shards", source=source))
    assert data.class_names == ["left", "right"] and data.shape == (2, 0, 0)
    assert sorted((*data.size(i), len(data.decoded(i, decode)), int(data.labels[i])) for i in range(4)) == [
        (128, 128, 1, 1),
        (128, 128, 2, 0),
        (128, 128, 2, 1),
        (180, 240, 2, 0),
    ]
    view = FrameView(2, "count", (64, 64))
    assert [int(view.see(data, i, None).sum()) for i in range(4)] == [len(data.decoded(i, decode)) for i in range(4)]
    with pytest.raises(DataError, match=r"train: sample \d: 150 x 150 is no size for events of 128 x 128"):
        [FrameView(2, "count", (150, 150)).see(data, i, None) for i in range(4)]
    np.savez(left / "e.npz", t=t, x=x, y=y, p=p)
    with pytest.raises(DataError, match="e.npz has event 0 at x 200, y 100, outside 128 x 128 pixels"):
        shards.write(catalog.get("events"), "train", tmp_path / "shards", source=source)


SETS = EventDataset(
    "two",
    (2, 128, 128),
    *COUNTS,
    class_names=("left", "right"),
    listing=lambda split, source: [
        Part(source / f"{split}.aedat", 0),
        Part(source / f"{split}.aedat", 1, 20, 30),
        Part(source / f"{split}.aedat", 1, 40, 50),
    ],
)


def test_a_part_is_its_events_from_its_start_to_before_its_end(tmp_path: Path) -> None:
    stamps = [10, 20, 29, 30]
    (tmp_path / "train.aedat").write_bytes(aedat2([(t, 1, 2, 0) for t in stamps]))
    source = SETS.open("train", tmp_path)
    whole, part = source[0], source[1]
    assert decode(whole.content).t.tolist() == stamps and decode(part.content).t.tolist() == [20, 29]
    assert (whole.label, part.label, part.key, part.extension) == (0, 1, "00000001", "npz")
    assert part.name == f"{tmp_path / 'train.aedat'} from 20 to 30 us" and whole.name == f"{tmp_path / 'train.aedat'}"
    with pytest.raises(DataError, match="from 40 to 50 us has no events, though its labels name a gesture there"):
        source[2]
    marks = {source.mark(i) for i in range(3)}
    (tmp_path / "train.aedat").write_bytes(aedat2([(1, 1, 2, 0)]))
    assert len(marks | {source.mark(i) for i in range(3)}) == 6


def test_without_its_archive_nothing_is_read() -> None:
    with pytest.raises(DataError, match="two is read from its unpacked archive; give its folder with --source"):
        SETS.open("train")
