from __future__ import annotations

import numpy as np
import pytest

from pipelines.augment import Augment

IMAGE = np.arange(1, 1 + 2 * 12 * 10, dtype=np.uint8).reshape(2, 12, 10)


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
