"""Corruptions that are made here."""

from __future__ import annotations

import random
import sys

import numpy as np
import pytest

from pipelines.errors import DataError
from pipelines.views import corruptions
from pipelines.views.corruptions import KINDS, corrupt, corruption_rng


def waves(channels: int, height: int, width: int) -> np.ndarray:
    """A smooth colourful picture: noise shows in it, and so does blur."""
    c, y, x = np.meshgrid(np.arange(channels), np.arange(height), np.arange(width), indexing="ij")
    return (120 + 70 * np.sin(x / (2 + c)) + 50 * np.cos(y / 3 + c)).astype(np.uint8)


def error(image: np.ndarray, kind: str, severity: int, seed: int = 0) -> float:
    made = corrupt(image, kind, severity, corruption_rng(seed, kind, severity, 7))
    return float(np.abs(made.astype(int) - image).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 48, 64)])
def test_every_kind_changes_pictures_of_every_size(kind: str, shape: tuple[int, int, int]):
    if kind == "saturate" and shape[0] == 1:
        with pytest.raises(DataError, match="the pictures have 1 channel; leave it out"):
            corrupt(waves(*shape), kind, 3, corruption_rng(0, kind, 3, 0))
        return
    image = waves(*shape)
    before = image.copy()
    for severity in (1, 5):
        made = corrupt(image, kind, severity, corruption_rng(0, kind, severity, 0))
        assert (made.dtype, made.shape) == (np.uint8, shape)
        assert made.flags.c_contiguous
    assert error(image, kind, 5) > 2
    assert np.array_equal(image, before)


# Without those that draw another scene, and those whose last severities are of another sort.
ORDERED = [k for k in KINDS if k not in ("frost", "fog", "elastic_transform", "spatter", "saturate")]


@pytest.mark.parametrize("kind", ORDERED)
def test_a_higher_severity_changes_more(kind: str):
    image = waves(3, 64, 64)
    errors = [np.mean([error(image, kind, severity, seed) for seed in range(4)]) for severity in (1, 3, 5)]
    assert errors[0] < errors[1] < errors[2]


def test_large_pictures_work():
    made = corrupt(waves(3, 224, 224), "fog", 3, corruption_rng(0, "fog", 3, 0))
    assert made.shape == (3, 224, 224)


def test_draws_are_keyed_and_global_generators_stay_as_they_were():
    image = waves(3, 32, 32)
    keys = [(seed, kind, severity, i) for seed in (0, 1) for kind in KINDS for severity in (1, 4) for i in (0, 5)]
    states = random.getstate(), np.random.get_state()[1].tolist()
    forward = {key: corrupt(image, *key[1:3], corruption_rng(*key)).tobytes() for key in keys}
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    np.random.seed(1)
    assert {key: corrupt(image, *key[1:3], corruption_rng(*key)).tobytes() for key in reversed(keys)} == forward
    for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "fog", "snow"):
        assert len({content for key, content in forward.items() if key[1:3] == (kind, 4)}) == 4


def test_grey_noise_is_as_strong_as_coloured_noise():
    flat = np.full((3, 64, 64), 128, np.uint8)
    for kind in ("gaussian_noise", "speckle_noise"):
        grey, colour = (corrupt(x, kind, 2, corruption_rng(0, kind, 2, 0)).std() for x in (flat[:1], flat))
        assert abs(grey / colour - 1) < 0.1


def test_a_picture_without_a_drop_stays_as_it_is():
    image = waves(1, 16, 16)
    made = [corrupt(image, "spatter", 1, corruption_rng(0, "spatter", 1, i)) for i in range(40)]
    assert any(np.array_equal(x, image) for x in made)
    assert min(x.max() for x in made) > 0


@pytest.mark.parametrize(
    ("kind", "severity", "image", "expected"),
    [
        ("gausian_noise", 1, waves(3, 32, 32), "did you mean gaussian_noise"),
        ("fog", 0, waves(3, 32, 32), "severity is 0"),
        ("fog", 6, waves(3, 32, 32), "severity is 6"),
        ("fog", 1, waves(2, 32, 32), "give uint8"),
        ("fog", 1, waves(3, 32, 32) / 255, "give uint8"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(kind: str, severity: int, image: np.ndarray, expected: str):
    with pytest.raises(DataError, match=expected):
        corrupt(image, kind, severity, np.random.default_rng(0))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    corruptions._library.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'tdformer\[corruptions\]'"):
        corrupt(waves(3, 32, 32), "fog", 1, np.random.default_rng(0))
