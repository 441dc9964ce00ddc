"""Folders of classes as people have them: what is read, and what is passed over and why."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import events
from pipelines.errors import DataError
from pipelines.raw import catalog, listing, recordings
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset

FOLDER = catalog.get("folder")


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix.lower(), path.suffix[1:].upper() or "PNG")
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(path, kind)


READ = ["a.png", "B.JPG", "c.webp", "d.bmp", "e.tif", "f.ppm", "deep/er/g.png", "deep/a.png", os.fsdecode(b"\xff.png")]


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for split in ("train", "val", "test"):
        picture(source / split / "dog" / "1.png", 250)
        picture(source / split / "cat" / "1.png", 200)
    train = source / "train"
    cat = train / "cat"
    for grey, name in enumerate(READ):
        picture(cat / name, grey)
    picture(tmp_path / "elsewhere" / "x.png", 100)
    picture(tmp_path / "single.png", 101)
    (cat / "linked").symlink_to(tmp_path / "elsewhere")
    (cat / "single.png").symlink_to(tmp_path / "single.png")
    for hidden in (".h.png", "._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "Thumbs.db"):
        picture(cat / hidden, 150) if hidden.endswith("png") else (cat / hidden).write_bytes(b"x")
    for junk in (".ipynb_checkpoints", "__MACOSX/cat", "@eaDir"):
        (train / junk).mkdir(parents=True)
    (train / "stray.png").write_bytes(b"x")
    (cat / "read.me").write_text("not a picture")
    os.mkfifo(cat / "pipe.png")
    (cat / "null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(cat / "s.png"))
    (cat / "loop").symlink_to(".")
    (cat / "up").symlink_to("../..")
    (train / "all").symlink_to("../train")
    (train / "dog" / "cats").symlink_to("../cat")
    return source


def test_pictures_are_read_wherever_they_lie_and_the_rest_is_counted(messy: Path, tmp_path: Path):
    source = FOLDER.open("train", messy)
    assert source.class_names == ("cat", "dog")
    data = TarDataset(shards.write(FOLDER, "train", tmp_path / "out", source=messy))
    greys = [sorted(int(data.image(i)[0, 0, 0]) for i in np.flatnonzero(data.labels == label)) for label in (0, 1)]
    cats = [*range(len(READ)), 100, 101, 200]
    assert greys[0] == cats and greys[1] == sorted([*cats, 250])  # a link to another class is followed
    assert source.skipped.counts == {
        listing.HIDDEN: 3 + 2 * 5,
        listing.STRAY: 1,
        listing.LOOP: 1 + 2 * 2,
        listing.FORMAT: 2,
        listing.SPECIAL: 2 * 3,
    }
    assert f"2 of another format ({messy}/train/cat/read.me" in str(source.skipped).replace(",", "")


def test_val_comes_before_test(messy: Path):
    source = FOLDER.open("test", messy)
    assert {source[i].name for i in range(len(source))} == {f"{messy}/val/{name}/1.png" for name in ("cat", "dog")}
    assert str(source.skipped) == f"1 folders, because val comes first ({messy}/test)"
    shutil.rmtree(messy / "val")
    assert FOLDER.open("test", messy)[0].name.startswith(f"{messy}/test/")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_pictures_is_an_error(messy: Path, split: str):
    for place in ("train", "val"):
        picture(messy / place / "owl" / "1.png", 1)
    empty = messy / ("val" if split == "test" else "train") / "owl"
    (empty / "1.png").rename(empty / "1.gif")
    with pytest.raises(DataError, match=re.escape(f"{empty}: nothing to read (1 of another format (") + ".*fill it"):
        FOLDER.open(split, messy)


def as_nobody(act: Callable[[], object]) -> str:
    """The DataError of `act`, called by a user who may not read everything."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)
        try:
            act()
        except DataError as error:
            os.write(write, os.fsencode(str(error)))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        return os.fsdecode(pipe.read())


def test_what_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        for split in ("train", "val"):
            picture(source / split / "cat" / "1.png", 1)
            picture(source / split / "cat" / "2.png", 2)
        out = Path(place) / "out"
        out.mkdir(mode=0o777)
        for folder in (Path(place), out):
            folder.chmod(0o777)
        secret = source / "train" / "cat" / "1.png"
        secret.chmod(0)
        said = as_nobody(lambda: shards.write(FOLDER, "train", out, source=source))
        assert said == f"{secret} cannot be read (Permission denied); fix the source"
        secret.parent.chmod(0)
        said = as_nobody(lambda: FOLDER.open("train", source))
        assert said == f"{secret.parent} cannot be read (Permission denied); fix the source"
        secret.parent.chmod(0o755)


def test_classes_that_are_no_text_are_named(messy: Path):
    for split in ("train", "val", "test"):
        picture(messy / split / os.fsdecode(b"c\xe9") / "1.png", 1)
    with pytest.raises(DataError, match="train/c.* is a class whose name is not UTF-8; rename it"):
        FOLDER.open("train", messy)


def test_all_wrong_files_are_named_at_once(messy: Path, tmp_path: Path):
    cat = messy / "train" / "cat"
    (cat / "dogs").symlink_to("../dog")
    wrong = {"cut.png": b"\x89PNG\r\n\x1a\n", "text.jpg": b"text", os.fsdecode(b"\xfe.bmp"): b"BM"}
    for name, content in wrong.items():
        (cat / name).write_bytes(content)
    (cat / "gone.png").symlink_to("nowhere.png")
    (cat / "round.png").symlink_to("round.png")
    expected = {*(f"{name} does not decode" for name in wrong), "gone.png cannot be read (No such file"}
    expected.add("round.png cannot be read (Too many levels of symbolic links)")
    for processes in (1, 2):
        with pytest.raises(shards.WrongSamples, match="samples are wrong: .*; fix the source") as error:
            shards.write(FOLDER, "train", tmp_path / "out", source=messy, samples_per_shard=5, processes=processes)
        assert len(error.value.faults) == 10  # each once more by the link from dog
        assert all(any(part in fault for fault in error.value.faults) for part in expected), error.value
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "train").exists()


def test_a_sample_is_not_decoded_beyond_what_its_index_says(messy: Path, tmp_path: Path):
    data = TarDataset(shards.write(FOLDER, "train", tmp_path / "out", source=messy, max_pixels=12))
    data.table["height"][0] = 2
    for read in (lambda: data.image(0), lambda: data.crop(0, (0, 0, 2, 4), 2)):
        with pytest.raises(DataError, match="sample 0 has 3 x 4 pixels, more than 8"):
            read()
    with pytest.raises(shards.WrongSamples, match="has 3 x 4 pixels, more than 11; .*; fix the source"):
        shards.write(FOLDER, "train", tmp_path / "out", source=messy, max_pixels=11)


def test_a_recording_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    zeros = np.zeros(1000, np.int64)
    np.savez_compressed(tmp_path / "a.npz", t=zeros, x=zeros, y=zeros, p=zeros)
    assert len(recordings.read(tmp_path / "a.npz")) == 1000
    monkeypatch.setattr(events, "MAX_BYTES", 30_000)
    with pytest.raises(DataError, match="a.npz unpacks to 32,512 bytes, more than 30,000; unpack the data set again"):
        recordings.read(tmp_path / "a.npz")
    os.mkfifo(tmp_path / "b.aedat")
    with pytest.raises(DataError, match="b.aedat cannot be read .it is no regular file"):
        recordings.read(tmp_path / "b.aedat")
