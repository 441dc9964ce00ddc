"""Augmentation: keyed draws, and the distributions and operations of the libraries that the recipes come from."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import sys
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from pipelines.draws import AUGMENT
from pipelines.errors import DataError
from pipelines.views import augment
from pipelines.views.augment import SPIKFORMER_OPS, Augment
from pipelines.views.vision import torchvision

IMAGE = np.arange(1, 1 + 2 * 12 * 10, dtype=np.uint8).reshape(2, 12, 10)
PHOTO = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ALL: dict[str, Any] = {
    "crop_padding": 2,
    "flip": 0.5,
    "erasing": 0.25,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.4,
    "erasing_mode": "pixel",
    "mean": MEAN,
    "std": STD,
}


def same_distribution(ours: Any, theirs: Any) -> bool:
    return stats.ks_2samp(ours, theirs).pvalue > 0.01


def test_draws_depend_on_seed_epoch_and_sample_alone():
    a, b = Augment(2, 0.5, 0.5, seed=1), Augment(2, 0.5, 0.5, seed=1)
    keys = [(epoch, i) for epoch in range(3) for i in range(20)]
    forward = {key: a(IMAGE, *key).tobytes() for key in keys}
    assert {key: b(IMAGE, *key).tobytes() for key in reversed(keys)} == forward
    assert len(set(forward.values())) > 40
    assert {key: Augment(2, 0.5, 0.5, seed=2)(IMAGE, *key).tobytes() for key in keys} != forward


def test_off_changes_nothing_and_the_source_is_never_written():
    before = IMAGE.copy()
    assert np.array_equal(Augment()(IMAGE, 0, 0), IMAGE)
    for i in range(50):
        Augment(3, 1.0, 1.0)(IMAGE, 0, i)
    assert np.array_equal(IMAGE, before)


def test_crop_moves_by_every_offset_up_to_the_padding():
    padded = np.pad(IMAGE, ((0, 0), (2, 2), (2, 2)))
    windows = {padded[:, t : t + 12, x : x + 10].tobytes(): (t, x) for t in range(5) for x in range(5)}
    seen = {windows[Augment(crop_padding=2)(IMAGE, 0, i).tobytes()] for i in range(400)}
    assert seen == set(windows.values())


@pytest.mark.parametrize("flip", [0.0, 0.3, 1.0])
def test_flip_happens_as_often_as_asked(flip: float):
    images = [Augment(flip=flip)(IMAGE, 0, i) for i in range(1000)]
    flipped = sum(np.array_equal(x, IMAGE[:, :, ::-1]) for x in images)
    assert flipped + sum(np.array_equal(x, IMAGE) for x in images) == 1000
    assert abs(flipped / 1000 - flip) < 0.05


@pytest.mark.filterwarnings("error")
def test_a_flipped_picture_lies_in_memory_as_the_picture_does():
    """Colours side by side, as decoders give them; they also give what cannot be written."""
    picture = np.frombuffer(PHOTO.tobytes(), np.uint8).reshape(32, 32, 3).transpose(2, 0, 1)
    for image in (picture, picture.copy("K"), PHOTO):
        flipped = Augment(flip=1.0, erasing=1e-9)(image, 0, 1)
        assert np.array_equal(flipped, image[:, :, ::-1]) and flipped.strides == image.strides


def test_erasing_blanks_one_rectangle_in_all_channels():
    image = np.ones((2, 28, 28), np.uint8)
    erased = 0
    for i in range(1000):
        blank = Augment(erasing=0.25)(image, 0, i) == 0
        assert np.array_equal(blank[0], blank[1])
        if blank.any():
            erased += 1
            rows, columns = blank[0].any(1), blank[0].any(0)
            assert np.array_equal(blank[0], np.outer(rows, columns))
            assert np.ptp(np.flatnonzero(rows)) + 1 == rows.sum()
            assert np.ptp(np.flatnonzero(columns)) + 1 == columns.sum()
            assert 0.01 < blank[0].mean() < 0.25
    assert 200 < erased < 300


def test_results_that_runs_were_made_with_stay():
    image = (np.arange(3 * 32 * 32) % 251).astype(np.uint8).reshape(3, 32, 32)
    made = b"".join(Augment(4, 0.5, 0.5, 7)(image, 1, i).tobytes() for i in range(50))
    assert hashlib.sha256(made).hexdigest().startswith("8e73bf7a9bd75e9c")


def recipe(sample_id: int) -> bytes:
    return Augment(**ALL, seed=1)(PHOTO, 3, sample_id).tobytes()


def test_every_draw_is_keyed_and_global_generators_stay_as_they_were():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    forward = [recipe(i) for i in range(60)]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    random.seed(9)
    np.random.seed(9)
    with multiprocessing.get_context("fork").Pool(1) as worker:
        assert worker.map(recipe, reversed(range(60))) == forward[::-1]
    assert len(set(forward)) == 60
    assert Augment(**ALL, seed=1)(PHOTO, 4, 0).tobytes() != forward[0]


def recorded(monkeypatch: pytest.MonkeyPatch, ops: list[Any]) -> list[tuple[str, tuple[Any, ...]]]:
    """What the operations are called with; they leave pictures as they are."""
    calls: list[tuple[str, tuple[Any, ...]]] = []
    for op in ops:
        monkeypatch.setattr(op, "aug_fn", lambda x, *args, name=op.name, **_: (calls.append((name, args)), x)[1])
    return calls


def test_rand_augment_draws_operations_and_magnitudes_as_timm(monkeypatch: pytest.MonkeyPatch):
    ours = Augment(rand_augment="rand-m9-mstd0.5-inc1", mean=MEAN, std=STD)
    timm = ours._rand_augment(32)
    assert len(timm.ops) == 15
    calls = recorded(monkeypatch, timm.ops)
    for i in range(4000):
        ours(PHOTO, 0, i)
    drawn, calls[:] = list(calls), []
    with augment._python_random(0), pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "choice", np.random.RandomState(0).choice)
        for _ in range(4000):
            timm(Image.new("RGB", (8, 8)))
    counts = Counter(name for name, _ in drawn)
    assert set(counts) == {op.name for op in timm.ops}
    assert stats.chisquare(list(counts.values())).pvalue > 0.01
    assert abs(len(drawn) - 4000) < 200  # two layers, each with probability 0.5
    for name in ("Rotate", "ShearX", "ColorIncreasing", "TranslateXRel"):
        assert same_distribution([a[0] for n, a in drawn if n == name], [a[0] for n, a in calls if n == name])
    degrees = np.array([a[0] for n, a in drawn if n == "Rotate"])
    assert 0.35 < (degrees > 0).mean() < 0.65
    assert abs(np.abs(degrees).mean() - 27) < 0.3


def test_posterize_may_keep_no_bit():
    """A magnitude of 10, which rand-m9-mstd0.5 draws too: Pillow 13 raised ValueError."""
    ours = Augment(rand_augment="rand-m10-inc1", rand_augment_ops=("PosterizeIncreasing",), mean=MEAN, std=STD)
    seen = [ours(PHOTO, 0, i) for i in range(20)]
    black = sum(not image.any() for image in seen)
    assert 0 < black < 20 and black + sum(np.array_equal(image, PHOTO) for image in seen) == 20


def test_the_cifar_recipe_draws_one_of_the_named_operations(monkeypatch: pytest.MonkeyPatch):
    ours = Augment(rand_augment="rand-m9-n1-mstd0.4-inc1", rand_augment_ops=SPIKFORMER_OPS, mean=MEAN, std=STD)
    calls = recorded(monkeypatch, ours._rand_augment(32).ops)
    for i in range(400):
        ours(PHOTO, 0, i)
    assert {name for name, _ in calls} == set(SPIKFORMER_OPS)
    assert 150 < len(calls) < 250


def test_colour_jitter_is_torchvisions_in_every_order():
    vision, seen = torchvision().transforms.functional, set()
    change = (vision.adjust_brightness, vision.adjust_contrast, vision.adjust_saturation)
    picture = Image.fromarray(np.ascontiguousarray(PHOTO.transpose(1, 2, 0)))
    for i in range(60):
        rng = AUGMENT.rng(0, 0, i)
        rng.random(8)
        order, factors = rng.permutation(3), rng.uniform(0.6, 1.4, 3)
        expected = picture
        for k in order:
            expected = change[k](expected, factors[k])
        assert np.array_equal(Augment(color_jitter=0.4)(PHOTO, 0, i), np.asarray(expected).transpose(2, 0, 1))
        seen.add(tuple(order.tolist()))
    assert seen == set(permutations(range(3)))


def test_erasing_boxes_are_those_of_timm():
    torchvision()
    from timm.data.random_erasing import RandomErasing

    theirs = RandomErasing(0.25, mode="const", device="cpu")
    with augment._python_random(0):
        expected = [(theirs(torch.ones(1, 32, 24)) == 0)[0].numpy() for _ in range(6000)]
    ours = Augment(erasing=0.25, erasing_mode="const", mean=(0.5,), std=(0.2,))
    white = np.full((1, 32, 24), 255, np.uint8)
    made = [ours(white, 0, i) for i in range(6000)]
    assert set(np.unique(made)) == {128, 255}  # the mean colour
    masks = [x[0] == 128 for x in made]
    for measure in (lambda m: m.sum(), lambda m: m.any(1).sum() / m.any(0).sum(), lambda m: m.any(1).argmax()):
        assert same_distribution(*([measure(m) for m in some if m.any()] for some in (masks, expected)))
    assert abs(np.mean([m.any() for m in masks]) - 0.25) < 0.02


def test_erasing_noise_has_the_datas_statistics():
    ours = Augment(erasing=1, erasing_mode="pixel", mean=MEAN, std=STD)
    pixels = []
    for i in range(300):
        first, second = (ours(np.full((3, 32, 32), value, np.uint8), 0, i) for value in (0, 255))
        pixels.append(first[:, (first == second).all(0)])
    noise = np.concatenate(pixels, 1)
    expected = stats.norm.rvs(size=(3, 50_000), random_state=0) * 255 * np.array(STD)[:, None]
    expected = np.clip(np.rint(expected + 255 * np.array(MEAN)[:, None]), 0, 255)
    assert np.abs(noise.mean(1) - expected.mean(1)).max() < 1.5
    assert np.abs(noise.std(1) - expected.std(1)).max() < 1.5


@pytest.mark.parametrize("setting", [{"rand_augment": "rand-m9"}, {"color_jitter": 0.4}])
def test_grey_pictures_have_no_colour_operations(setting: dict[str, Any]):
    with pytest.raises(DataError, match="the pictures have 1 channel") as failure:
        Augment(**setting, mean=(0.5,), std=(0.5,))(PHOTO[:1], 0, 0)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"erasing_mode": "noise"}, "choose one of black, const, pixel"),
        ({"erasing_mode": "pixel"}, "give mean and std of the data"),
        ({"rand_augment": "rand-m9"}, "give mean and std of the data"),
        ({"rand_augment": "rand-m9-mtsd", "mean": MEAN, "std": STD}, "unknown part"),
        ({"rand_augment": "rand-m9.5", "mean": MEAN, "std": STD}, "write it like rand-m9-mstd0.5-inc1"),
        ({"rand_augment": "rand-m9", "rand_augment_ops": ("Shave",), "mean": MEAN, "std": STD}, "of Shave"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any], expected: str):
    with pytest.raises(DataError, match=expected):
        Augment(**setting)


@pytest.mark.parametrize("missing", ["torchvision", "timm.data.auto_augment"])
def test_a_missing_library_is_named(missing: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, missing, None)
    augment._parsed.cache_clear()
    with pytest.raises(DataError, match=r"pip install 'tdformer\[augment\]'"):
        Augment(rand_augment="rand-m9", mean=MEAN, std=STD)
