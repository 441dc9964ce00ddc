"""Shears and shifts have Pillow's pixels, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.views import augment, slides

FILL = (124, 116, 104)
NAMES = {
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateX": "translate_x_abs",
    "TranslateY": "translate_y_abs",
    "TranslateXRel": "translate_x_rel",
    "TranslateYRel": "translate_y_rel",
}
OPTIONS = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Edges that the filter shoots over beyond 0 and 255, and even parts."""
    rng = np.random.default_rng(seed)
    pixels = rng.choice(np.array([0, 3, 128, 250, 255], np.uint8), (height, width, 3))
    pixels[: height // 3] = rng.integers(0, 256, (height // 3, width, 3))
    pixels[height // 3 : height // 2] = 77
    return Image.fromarray(pixels)


@settings(max_examples=40)
@given(
    name=st.sampled_from(list(NAMES)),
    amount=st.floats(-0.5, 0.5) | st.floats(-60, 60) | st.sampled_from([0.0, 0.25, -0.3, 1.0, 31.5]),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 50)),
)
@example(name="TranslateX", amount=1e9, shape=(5, 5))
@example(name="ShearY", amount=0.3 - 1e-16, shape=(64, 48))
def test_they_are_pillow_s(name: str, amount: float, shape: tuple[int, int]):
    before, how = picture(*shape), getattr(augment.auto_augment(), NAMES[name])
    ours = slides.faster(name, how)
    assert isinstance(ours, slides.Slide)
    found, expected = ours(before, amount, **OPTIONS), how(before, amount, **OPTIONS)
    assert (found.mode, found.size) == (expected.mode, expected.size)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_what_slides_by_unequal_numbers_is_left_to_pillow():
    """The first pixel comes from before the line, by less than a double can tell from the others."""
    before, how = picture(9, 12), augment.auto_augment().translate_x_abs
    assert slides.slid(np.asarray(before), 0.0, -1e-16, FILL) is None
    assert slides.slid(np.asarray(before), 0.0, -1e-3, FILL) is not None
    found = slides.faster("TranslateX", how)(before, -1e-16, **OPTIONS)
    assert np.array_equal(np.asarray(found), np.asarray(how(before, -1e-16, **OPTIONS)))


@pytest.mark.parametrize("way", ["grey", "bilinear"])
def test_other_pictures_and_filters_are_left_to_pillow(way: str):
    before, how = picture(20, 30), augment.auto_augment().shear_x
    options = OPTIONS | ({"resample": Image.Resampling.BILINEAR} if way == "bilinear" else {"fillcolor": 124})
    if way == "grey":
        before = before.convert("L")
    found = slides.faster("ShearX", how)(before, 0.2, **options)
    assert found.mode == before.mode
    assert np.array_equal(np.asarray(found), np.asarray(how(before, 0.2, **options)))


def test_the_recipe_takes_them():
    replaced = {
        op.name for op in augment._parsed("rand-m9-inc1", None, FILL, 224).ops if type(op.aug_fn) is slides.Slide
    }
    assert replaced == {"ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


def test_nothing_is_replaced_where_pillow_s_bits_are_its_compiler_s(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    how = augment.auto_augment().shear_x
    assert slides.faster("ShearX", how) is how
