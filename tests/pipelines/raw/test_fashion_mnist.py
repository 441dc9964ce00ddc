"""Fashion-MNIST from files as Debian's package lays them out, whole and damaged."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

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
