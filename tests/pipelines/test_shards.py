"""Shards hold the original samples, the same bytes each time; what is damaged or does not fit is found and named."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipelines import catalog, shards
from pipelines.errors import DataError
from pipelines.webdataset import TarDataset


def test_every_sample_comes_back_with_its_label(written: Path) -> None:
    for split, count in (("train", 1442), ("test", 355)):
        data = TarDataset(written / split)
        images, labels = catalog.get("digits").load(split, None)
        assert len(data) == len(images) == count
        for i in range(count):
            assert np.array_equal(data.image(i), images[i])
            assert data.read(i)[1] == labels[i]
        assert shards.verify(written / split) == count


def test_webdataset_itself_reads_the_shards(written: Path) -> None:
    data = TarDataset(written / "train")
    source = webdataset.WebDataset([str(p) for p in data.paths], shardshuffle=False)
    for i, sample in enumerate(source):
        assert (sample["png"], int(sample["cls"])) == data.read(i)
    assert i == len(data) - 1


def test_the_same_samples_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = shards.write(catalog.get("digits"), "test", tmp_path, samples_per_shard=300)
    for path in sorted((written / "test").iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_the_digest_depends_on_the_samples(written: Path, tmp_path: Path) -> None:
    digits = catalog.get("digits")

    def shifted(split: str, source: Path | None):  # type: ignore[no-untyped-def]
        images, labels = digits.load(split, source)
        return images, (labels + 1) % 10

    other = shards.write(replace(digits, load=shifted), "test", tmp_path, samples_per_shard=300)
    assert TarDataset(other).digest != TarDataset(written / "test").digest


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def change_label(folder: Path) -> None:
    """A label outside the classes, with a digest that matches it."""
    facts = json.loads((folder / "index.json").read_text())
    with np.load(folder / "index.npz") as table:
        columns = {key: table[key].copy() for key in table.files}
    columns["label"][3] = 10
    np.savez(folder / "index.npz", **columns)
    (folder / "index.json").write_text(json.dumps(facts | {"digest": shards.table_digest(columns)}))


def other_index(folder: Path) -> None:
    """The index table of another data set."""
    (folder / "index.npz").write_bytes((folder.parent / "test" / "index.npz").read_bytes())


OPENING: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda f: (f / "train-000001.tar").unlink(), r"train-000001\.tar is missing"),
    "cut shard": (lambda f: cut(f / "train-000002.tar", 5120), r"train-000002\.tar has 5120 bytes instead of"),
    "stale index": (other_index, r"index\.npz does not match index\.json"),
    "index cut": (lambda f: cut(f / "index.npz", 500), "index in .* cannot be read"),
    "no index": (lambda f: (f / "index.json").unlink(), r"index\.json is missing"),
    "index not JSON": (lambda f: cut(f / "index.json", 40), "index in .* cannot be read"),
    "label out of range": (change_label, r"sample 3 has label 10, outside 0\.\.9"),
}


@pytest.mark.parametrize("fault", OPENING)
def test_faults_that_opening_finds(copied: Path, fault: str) -> None:
    damage, expected = OPENING[fault]
    damage(copied / "train")
    with pytest.raises(DataError, match=expected) as error:
        TarDataset(copied / "train")
    assert "\n" not in str(error.value) and "tdformer shard" in str(error.value)


def test_a_flipped_byte_is_found_when_it_is_read_and_by_verify(copied: Path) -> None:
    data = TarDataset(copied / "train")
    place = int(data.table["offset"][301]) + 20
    flip(copied / "train" / "train-000001.tar", place)
    assert data.read(300) and data.read(302)
    with pytest.raises(DataError, match=r"train-000001\.tar: sample 301 is damaged"):
        data.read(301)
    with pytest.raises(DataError, match=r"train-000001\.tar is damaged \(first at sample 301\)"):
        shards.verify(copied / "train")


def write_samples(tmp_path: Path, content: bytes, label: int) -> None:
    digits = catalog.get("digits")

    class Odd(catalog.Dataset):
        def read(self, split: str, source: Path | None = None):  # type: ignore[no-untyped-def]
            yield from [*digits.read(split, source)][:5]
            yield "odd", content, label

    odd = Odd(digits.name, digits.class_names, digits.shape, digits.mean, digits.std, digits.load)
    shards.write(odd, "train", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "label", "expected"),
    [
        (b"no picture", 1, "sample odd does not decode"),
        (catalog.encode_png(np.zeros((1, 8, 8), np.uint8))[:40], 1, "sample odd does not decode"),
        (catalog.encode_png(np.zeros((1, 9, 8), np.uint8)), 1, r"decodes to \[1, 9, 8\] instead of \[1, 8, 8\]"),
        (catalog.encode_png(np.zeros((1, 8, 8), np.uint8)), 10, r"label 10, outside 0\.\.9"),
        (catalog.encode_png(np.zeros((1, 8, 8), np.uint8)), -1, r"label -1, outside 0\.\.9"),
    ],
)
def test_a_wrong_sample_is_refused_and_nothing_is_left(
    tmp_path: Path, content: bytes, label: int, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        write_samples(tmp_path, content, label)
    assert list((tmp_path / "out").iterdir()) == []


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    fashion = catalog.get("fashion_mnist")
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is missing; install"):
        next(fashion.read("train", tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not gzip")
    with pytest.raises(DataError, match="cannot be read"):
        next(fashion.read("train", tmp_path))
    with pytest.raises(DataError, match="did you mean digits"):
        catalog.get("digit")
    with pytest.raises(DataError, match="has no split 'all'"):
        next(fashion.read("all"))


def test_fashion_mnist_from_files_of_its_format(tmp_path: Path) -> None:
    import gzip

    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    header = np.array([0x803, 3, 28, 28], ">u4").tobytes()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    labels = np.array([0x801, 3], ">u4").tobytes() + bytes([9, 0, 4])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    samples = list(catalog.get("fashion_mnist").read("test", tmp_path))
    assert [label for *_, label in samples] == [9, 0, 4]
    for (_, content, _), image in zip(samples, images, strict=True):
        assert np.array_equal(catalog.decode(content, (1, 28, 28))[0], image)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()[:-1]))
    with pytest.raises(DataError, match="not a whole idx file"):
        next(catalog.get("fashion_mnist").read("test", tmp_path))


def test_statistics_of_the_catalogue_are_those_of_the_pictures() -> None:
    digits = catalog.get("digits")
    images, _ = digits.load("train", None)
    assert images.mean() / 255 == pytest.approx(digits.mean[0], abs=1e-4)
    assert images.std() / 255 == pytest.approx(digits.std[0], abs=1e-4)


def test_a_dataset_travels_to_another_process(written: Path) -> None:
    data = TarDataset(written / "test")
    first = data.read(0)
    assert pickle.loads(pickle.dumps(data)).read(0) == first


def test_members_are_owned_by_nobody_in_particular(written: Path) -> None:
    with tarfile.open(written / "test" / "test-000000.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uname, member.gname, member.mode) == (0, "0", "0", 0o444)
