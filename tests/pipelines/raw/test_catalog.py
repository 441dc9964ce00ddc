from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.views.pictures import decode


def idx(array: np.ndarray) -> bytes:
    """The format of the MNIST family: 0, 0, 8 (bytes), dimensions, the sizes, the values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A folder as Debian's package lays it out, with 6 pictures a split."""
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        pixels = rng.integers(0, 256, (6, 28, 28))
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(6))))
    return tmp_path


def test_fashion_mnist_reads_the_files_of_the_package(fashion: Path):
    dataset = catalog.get("fashion_mnist")
    images, labels = dataset.load("test", fashion)
    source = dataset.open("test", fashion)
    samples = [source[i] for i in range(len(source))]
    assert labels.tolist() == [sample.label for sample in samples] == [0, 1, 2, 3, 4, 5]
    assert [sample.key for sample in samples] == [f"{i:08d}" for i in range(6)]
    for image, sample in zip(images, samples, strict=True):
        assert sample.extension == "png" and np.array_equal(decode(sample.content, 1), image)


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("train-images-idx3-ubyte.gz", None, "is missing; install the Debian package dataset-fashion-mnist"),
        ("train-images-idx3-ubyte.gz", lambda b: b[:-20], "cannot be read"),
        ("train-images-idx3-ubyte.gz", lambda b: b[:40] + bytes(40) + b[80:], "cannot be read"),
        ("train-images-idx3-ubyte.gz", lambda b: b"no gzip", "cannot be read"),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(b"\0\0"), "is not a whole idx file"),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(gzip.decompress(b)[:-1]), "is not a whole idx file"),
        ("train-labels-idx1-ubyte.gz", lambda b: gzip.compress(idx(np.arange(5))), "has 6 pictures but 5 labels"),
    ],
)
def test_damaged_sources_are_one_line(fashion: Path, name: str, damage, expected: str):
    path = fashion / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=expected) as error:
        catalog.get("fashion_mnist").open("train", fashion)
    assert "\n" not in str(error.value)


def test_digits_are_split_in_a_fixed_stratified_way():
    dataset = catalog.get("digits")
    train, test = (dataset.load(split, None) for split in dataset.splits)
    assert [len(train[1]), len(test[1])] == [1437, 360]
    assert np.bincount(test[1]).min() >= 35 and np.bincount(test[1]).max() <= 37
    together = np.concatenate([train[0], test[0]]).reshape(1797, -1)
    original = (load_digits().data * 15).astype(np.uint8)
    assert np.array_equal(together[np.lexsort(together.T)], original[np.lexsort(original.T)])


# The package cannot be installed everywhere.
@pytest.mark.parametrize("name", ["digits", "fashion_mnist"][: 1 + catalog.FASHION_MNIST_FOLDER.exists()])
def test_statistics_are_those_of_the_training_pictures(name: str):
    dataset = catalog.get(name)
    images = dataset.load("train", None)[0] / 255
    assert images.shape[1:] == dataset.shape
    assert np.allclose(images.mean((0, 2, 3)), dataset.mean, atol=1e-5)
    assert np.allclose(images.std((0, 2, 3)), dataset.std, atol=1e-5)


def test_colour_survives_encoding():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    assert np.array_equal(decode(catalog.encode_png(image), 3), image)


def test_unknown_names_get_the_nearest():
    with pytest.raises(DataError, match="'fashion-mnist' is unknown; did you mean fashion_mnist"):
        catalog.get("fashion-mnist")
    with pytest.raises(DataError, match="no split 'val'; choose one of train, test"):
        catalog.get("digits").open("val")
