"""Data sets that are read whole."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.raw import catalog, fashion_mnist
from pipelines.raw.arrays import ArrayDataset, encode_png
from pipelines.views.pictures import decode


# The package cannot be installed everywhere.
@pytest.mark.parametrize("name", ["digits", "fashion_mnist"][: 1 + fashion_mnist.FOLDER.exists()])
def test_statistics_are_those_of_the_training_pictures(name: str):
    dataset = catalog.get(name)
    assert isinstance(dataset, ArrayDataset)
    images = dataset.load("train", None)[0] / 255
    assert images.shape[1:] == dataset.shape
    assert np.allclose(images.mean((0, 2, 3)), dataset.mean, atol=1e-5)
    assert np.allclose(images.std((0, 2, 3)), dataset.std, atol=1e-5)


def test_colour_survives_encoding():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    assert np.array_equal(decode(encode_png(image), 3), image)
