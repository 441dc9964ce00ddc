"""ILSVRC 2012 read out of archives in exactly the published layout, small: 3 classes, 12 + 6 pictures."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from pipelines.errors import DataError
from pipelines.raw import catalog, imagenet
from pipelines.store import tar_writer as shards
from pipelines.store.index import INDEX
from pipelines.store.tars import TarDataset

IMAGENET = catalog.get("imagenet")
WORDS = {
    "n02105855": "Shetland sheepdog, Shetland",
    "n01440764": "tench, Tinca tinca",
    "n03710193": "mailbox, letter box",
}
IDS = {1: "n02105855", 2: "n03710193", 3: "n01440764"}  # the kit's own order is not that of the WNIDs
TRUTH = [3, 1, 2, 2, 3, 1]
Files = dict[str, bytes]


def picture(rng: np.random.Generator, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    height, width = rng.integers(20, 60, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def tar(files: Files, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def meta(counts: dict[str, int]) -> bytes:
    """The struct as the kit has it: the 1,000 classes (here 3), then the groups above them, [n, 1]."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    rows = [(i, w, WORDS[w], f"a {WORDS[w]}", 0, np.zeros((1, 0)), 0, counts[w]) for i, w in IDS.items()]
    rows.append((4, "n00001740", "entity", "that which is", 3, np.array([[1, 2, 3]]), 18, 0))
    synsets = np.empty((len(rows), 1), [(field, object) for field in (*fields, "num_train_images")])
    for row, values in zip(synsets[:, 0], rows, strict=True):
        for field, value in zip(synsets.dtype.names, values, strict=True):
            row[field] = value
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


class Archives:
    """What the archives hold; `write` makes them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.train = {w: {f"{w}_{10 * i}.JPEG": picture(rng) for i in (3, 20, 1, 2)} for w in reversed(WORDS)}
        # As in the published set: a PNG named .JPEG, and pictures in CMYK.
        self.train["n02105855"]["n02105855_2933.JPEG"] = picture(rng, "PNG")
        self.train["n03710193"]["n03710193_7.JPEG"] = picture(rng, mode="CMYK")
        self.val = {f"ILSVRC2012_val_{i:08d}.JPEG": picture(rng) for i in (2, 1, 3, 4, 6, 5)}
        self.counts = {w: len(files) for w, files in self.train.items()}
        self.truth = "".join(f"{label}\n" for label in TRUTH)
        self.meta = meta(self.counts)

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / imagenet.TRAIN).write_bytes(tar({f"{w}.tar": tar(files) for w, files in self.train.items()}))
        (folder / imagenet.VALIDATION).write_bytes(tar(self.val))
        (folder / imagenet.KIT).write_bytes(
            tar({imagenet.META: self.meta, imagenet.TRUTH: self.truth.encode()}, mode="w:gz")
        )
        return folder

    def unpack(self, folder: Path) -> Path:
        """As everyone unpacks them: a folder for each class."""
        for wnid, files in self.train.items():
            for name, content in files.items():
                (folder / "train" / wnid).mkdir(parents=True, exist_ok=True)
                (folder / "train" / wnid / name).write_bytes(content)
        for label, (name, content) in zip(TRUTH, sorted(self.val.items()), strict=True):
            (folder / "val" / IDS[label]).mkdir(parents=True, exist_ok=True)
            (folder / "val" / IDS[label] / name).write_bytes(content)
        return folder


@pytest.mark.parametrize("split", ["train", "test"])
def test_archives_and_unpacked_folders_give_the_same_shards(tmp_path: Path, split: str):
    archives = Archives()
    source, folders = archives.write(tmp_path / "as downloaded"), archives.unpack(tmp_path / "unpacked")
    before = {path: path.stat().st_mtime_ns for path in source.iterdir()}
    packed, unpacked = (
        shards.write(IMAGENET, split, tmp_path / f"out{i}", source=place, samples_per_shard=4, processes=1 + i)
        for i, place in enumerate((folders, source))
    )
    assert {path: path.stat().st_mtime_ns for path in source.iterdir()} == before
    facts = [json.loads((folder / INDEX).read_text()) for folder in (packed, unpacked)]
    assert facts[1].pop("class_titles") == [WORDS[wnid] for wnid in sorted(WORDS)] and facts[0] == facts[1]
    names = sorted(path.name for path in packed.iterdir())
    assert names == sorted(path.name for path in unpacked.iterdir())
    assert all((packed / n).read_bytes() == (unpacked / n).read_bytes() for n in names if n != INDEX)


def test_every_picture_has_its_label(tmp_path: Path):
    archives = Archives()
    source = archives.write(tmp_path / "source")
    train = TarDataset(shards.write(IMAGENET, "train", tmp_path / "out", source=source))
    assert train.class_names == ["n01440764", "n02105855", "n03710193"] and len(train) == 14
    whose = {content: wnid for wnid, files in archives.train.items() for content in files.values()}
    assert all(whose[train.read(i)[0]] == train.class_names[train.labels[i]] for i in range(14))
    test = TarDataset(shards.write(IMAGENET, "test", tmp_path / "out", source=source))
    names = {content: name for name, content in archives.val.items()}
    for i in range(6):
        number = int(names[test.read(i)[0]][-13:-5])
        assert test.class_names[test.labels[i]] == IDS[TRUTH[number - 1]]


@pytest.mark.parametrize("name", ["n02105855_2933.JPEG", "n03710193_7.JPEG"])
def test_the_png_and_the_cmyk_pictures_among_the_jpegs_are_read(tmp_path: Path, name: str):
    archives = Archives()
    content = archives.train[name[:9]][name]
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode) in {("PNG", "RGB"), ("JPEG", "CMYK")}
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    data = TarDataset(shards.write(IMAGENET, "train", tmp_path / "out", source=archives.write(tmp_path / "source")))
    (i,) = (i for i in range(len(data)) if data.read(i)[0] == content)
    assert np.array_equal(data.image(i), expected)
    seen = data.crop(i, (0, 0, *data.size(i)), 16)
    assert seen.shape == (3, 16, 16) and abs(float(seen.mean()) - float(expected.mean())) < 3


def test_a_killed_write_keeps_its_shards_until_the_archive_changes(tmp_path: Path):
    archives = Archives()
    source = archives.write(tmp_path / "source")

    def write(stop: bool) -> list[bool]:
        """Which shards were kept."""
        hidden = tmp_path / "out" / ".train.tmp"
        before = {p.name: p.stat().st_mtime_ns for p in hidden.glob("*.tar")}

        def progress(done: int, of: int) -> None:
            if stop and done == 10:
                raise KeyboardInterrupt

        folder = hidden
        with suppress(KeyboardInterrupt):
            folder = shards.write(
                IMAGENET, "train", tmp_path / "out", source=source, samples_per_shard=5, progress=progress
            )
        return [before.get(p.name) == p.stat().st_mtime_ns for p in sorted(folder.glob("*.tar"))]

    assert write(stop=True) == [False, False] and write(stop=True) == [True, True]
    archives.train["n01440764"]["n01440764_20.JPEG"] = picture(np.random.default_rng(9))
    archives.write(source)
    assert write(stop=True) == [False, False]
    assert write(stop=False) == [True, True, False]


def edit(**changes) -> Callable[[Archives], None]:
    return lambda archives: archives.__dict__.update(changes)


@pytest.mark.parametrize(
    ("split", "damage", "expected"),
    [
        ("train", lambda a: a.train.pop("n02105855"), "img_train.tar has no n02105855.tar, only 2 of 3 classes"),
        ("train", lambda a: a.train["n01440764"].popitem(), "n01440764.tar has 3 pictures instead of 4; download"),
        ("train", lambda a: a.train.update(n09=a.train["n01440764"]), "holds n09.tar, which is no class of ILSVRC2012"),
        ("test", edit(truth="3\n1\n2\n2\n3\n"), "val_00000006.JPEG has no label, .*ground_truth.txt.* has 5 lines"),
        (
            "test",
            edit(truth="3\n1\n2\n2\n3\n1\n1\n"),
            "img_val.tar has 6 pictures, .*ground_truth.txt in .*devkit.* has 7 lines",
        ),
        ("test", edit(truth="3\n1\n4\n2\n3\n1\n"), "line 3 of .*ground_truth.txt is '4', which is no class"),
        ("test", edit(truth="3\n1\ntwo\n"), "line 3 of .*ground_truth.txt is 'two'"),
        ("test", edit(val={"n01.JPEG": b""}), "n01.JPEG has no label"),
        ("train", edit(meta=b"MATLAB 5.0"), "devkit_t12.tar.gz: .*meta.mat cannot be read"),
    ],
)
def test_archives_that_do_not_fit_are_named(tmp_path: Path, split: str, damage, expected: str):
    archives = Archives()
    damage(archives)
    source = archives.write(tmp_path / "source")
    with pytest.raises(DataError, match=expected) as error:
        shards.write(IMAGENET, split, tmp_path / "out", source=source)
    assert "\n" not in str(error.value) and "download" in str(error.value)
    assert not (tmp_path / "out").exists()


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda source: (source / name).write_bytes((source / name).read_bytes()[:size])


def rewrite_inner(source: Path) -> None:
    """An inner archive that was cut before it was packed."""
    archives = Archives()
    inner = {f"{w}.tar": tar(files) for w, files in archives.train.items()}
    inner["n02105855.tar"] = inner["n02105855.tar"][:3000]
    (source / imagenet.TRAIN).write_bytes(tar(inner))


def no_truth(source: Path) -> None:
    (source / imagenet.KIT).write_bytes(gzip.compress(tar({imagenet.META: Archives().meta})))


@pytest.mark.parametrize(
    ("split", "damage", "expected"),
    [
        ("train", cut(imagenet.TRAIN, 30_000), "img_train.tar.* cannot be read .*unexpected end of data"),
        ("train", cut(imagenet.TRAIN, 0), "img_train.tar cannot be read .*empty file"),
        ("train", cut(imagenet.TRAIN, 512), "img_train.tar: n03710193.tar cannot be read"),
        ("train", rewrite_inner, "img_train.tar: n02105855.tar has 1 pictures instead of 5; download"),
        ("test", cut(imagenet.VALIDATION, 5_000), "img_val.tar cannot be read .*unexpected end of data"),
        ("test", cut(imagenet.KIT, 500), "devkit_t12.tar.gz cannot be read"),
        ("test", no_truth, "devkit_t12.tar.gz cannot be read .*ILSVRC2012_validation_ground_truth.txt"),
        ("train", lambda s: (s / imagenet.VALIDATION).unlink(), "img_val.tar is missing beside the other archives"),
        (
            "train",
            lambda s: [p.unlink() for p in s.iterdir()],
            "neither folders train and val, .* nor the archives ILSVRC2012_img_train.tar, .*_val.tar and .*devkit",
        ),
    ],
)
def test_damaged_archives_are_one_line(tmp_path: Path, split: str, damage, expected: str):
    source = Archives().write(tmp_path / "source")
    damage(source)
    with pytest.raises(DataError, match=expected) as error:
        shards.write(IMAGENET, split, tmp_path / "out", source=source)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_picture_that_does_not_decode_is_named_with_its_archive(tmp_path: Path):
    archives = Archives()
    archives.train["n01440764"]["n01440764_30.JPEG"] = b"no picture"
    source = archives.write(tmp_path / "source")
    place = re.escape(f"{source / imagenet.TRAIN}: n01440764_30.JPEG")
    with pytest.raises(DataError, match=f"{place} does not decode as a picture .*; fix the source"):
        shards.write(IMAGENET, "train", tmp_path / "out", source=source)


def test_an_archive_that_is_cut_while_it_is_read(tmp_path: Path):
    source = Archives().write(tmp_path / "source")
    opened = IMAGENET.open("train", source)
    (source / imagenet.TRAIN).write_bytes(b"")
    with pytest.raises(DataError, match="img_train.tar cannot be read .*is cut.*; download it again"):
        opened[0]
