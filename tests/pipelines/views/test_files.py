"""Files of a user as samples: which are read, and what is said of one that cannot be."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import EVENTS, PICTURES, DamagedSample, DataError, FileSamples, View
from pipelines.events import Events, decode, encode
from pipelines.views.pictures import decode as decode_picture


def png(height: int = 8, width: int = 8, seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def grey(*given: Path, shape: tuple[int, int, int] = (1, 8, 8)) -> FileSamples:
    return FileSamples(given, PICTURES, shape, [0.5], [0.25], ["a", "b"])


def test_folders_are_read_by_name_and_files_as_they_are_given(tmp_path: Path) -> None:
    for name in ("f/b.PNG", "f/a/z.png", "f/a/notes.txt", "f/.hidden.png", "x.odd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "f" / "loop").symlink_to(tmp_path / "f")
    data = grey(tmp_path / "x.odd", tmp_path / "f", tmp_path / "none.png")
    assert [str(path.relative_to(tmp_path)) for path in data.paths] == ["x.odd", "f/a/z.png", "f/b.PNG", "none.png"]
    assert data.skipped.counts.keys() == {
        "of another format",
        "hidden, or left by a system",
        "links back to a folder that holds them",
    }
    assert len(data) == 4 and data.classes == 2 and not data.labels.any()
    assert np.array_equal(data.image(0), decode_picture(png(), 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        grey(tmp_path / "empty")


def test_a_view_sees_a_file_of_any_size(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(30, 40))
    data = grey(tmp_path / "a.png", shape=(1, 0, 0))
    assert data.size(0) == (30, 40)
    assert View(16).see(data, 0, None).shape == (1, 16, 16)


def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(png(8, 9))
    (tmp_path / "cut.png").write_bytes(png()[:60])
    os.mkfifo(tmp_path / "pipe.png")
    for name, said in (
        ("wide.png", "has 8 x 9 pixels, the model takes pictures as they are, of 8 x 8; resize it"),
        ("cut.png", "does not decode as a picture"),
        ("pipe.png", r"cannot be read \(it is no regular file\)"),
        ("none.png", r"cannot be read \(No such file or directory\)"),
    ):
        with pytest.raises(DamagedSample, match=f"^{tmp_path / name} {said}"):
            grey(tmp_path / name).image(0)


def test_recordings_are_events(tmp_path: Path) -> None:
    t = np.arange(5)
    events = Events(t, t.astype(np.int16), t.astype(np.int16), (t % 2).astype(np.uint8), 128, 128)
    np.savez(tmp_path / "r.npz", t=events.t, x=events.x, y=events.y, p=events.p)
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    data = FileSamples([tmp_path], EVENTS, (2, 0, 0), [0.0, 0.0], [1.0, 1.0], [])
    assert [path.name for path in data.paths] == ["bad.npz", "r.npz"]
    assert encode(data.decoded(1, decode)) == encode(events) and data.size(1) == (128, 128)
    with pytest.raises(DamagedSample) as error:
        data.size(0)
    assert str(error.value).count("bad.npz") == 1
