"""Which box of a picture is seen: torchvision's distribution, keyed draws, torchvision's centre."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from pipelines.views.boxes import View
from pipelines.views.vision import torchvision

VIEW = View(32, seed=3)


def same_distribution(ours: Any, theirs: Any) -> bool:
    return stats.ks_2samp(ours, theirs).pvalue > 0.01


@settings(max_examples=200)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10**6))
def test_a_random_box_lies_in_the_picture_and_is_keyed(height: int, width: int, sample: int):
    top, left, h, w = VIEW.random(height, width, 2, sample)
    assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
    assert (top, left, h, w) == VIEW.random(height, width, 2, sample)


def test_random_boxes_have_the_asked_areas_and_ratios():
    view = View(32, scale=(0.1, 0.5))  # of which every draw fits into a square
    boxes = np.array([view.random(500, 500, 0, i) for i in range(4000)], float)
    area, ratio = boxes[:, 2] * boxes[:, 3] / 500**2, boxes[:, 3] / boxes[:, 2]
    assert np.allclose(np.quantile(area, [0, 0.25, 0.5, 0.75, 1]), [0.1, 0.2, 0.3, 0.4, 0.5], atol=0.015)
    assert np.allclose(np.quantile(np.log(ratio), [0, 0.5, 1]), [np.log(3 / 4), 0, np.log(4 / 3)], atol=0.02)
    assert np.allclose(np.quantile(boxes[:, 0] / (500 - boxes[:, 2]), [0.25, 0.75]), [0.25, 0.75], atol=0.03)
    assert len({tuple(VIEW.random(375, 500, epoch, 0)) for epoch in range(20)}) > 15


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (40, 400)])
def test_training_crop_is_that_of_torchvision(shape: tuple[int, int]):
    theirs = torchvision().transforms.RandomResizedCrop
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = torch.empty(3, *shape)
        expected = np.array([theirs.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    ours = np.array([View(8).random(*shape, 0, i) for i in range(3000)])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= shape).all()
    assert same_distribution(ours[:, 2] * ours[:, 3], expected[:, 2] * expected[:, 3])
    assert same_distribution(ours[:, 3] / ours[:, 2], expected[:, 3] / expected[:, 2])
    assert same_distribution(ours[:, 0], expected[:, 0])
    assert same_distribution(ours[:, 1], expected[:, 1])


@pytest.mark.parametrize(("shape", "box"), [((10, 500), (0, 243, 10, 13)), ((500, 10), (243, 0, 13, 10))])
def test_training_crop_of_a_strip_is_its_middle(shape: tuple[int, int], box: tuple[int, int, int, int]):
    assert View(8, scale=(0.99, 1.0)).random(*shape, 0, 0) == box
    with torch.random.fork_rng():
        theirs = torchvision().transforms.RandomResizedCrop
        assert box == tuple(theirs.get_params(torch.empty(3, *shape), (0.99, 1.0), (3 / 4, 4 / 3)))


@pytest.mark.parametrize("size", [224, 288, 384])
@pytest.mark.parametrize("shape", [(375, 500), (601, 333), (512, 512)])
def test_evaluation_sees_what_torchvision_leaves(size: int, shape: tuple[int, int]):
    ratio = 0.875 if size == 224 else 1.0
    vision = torchvision().transforms.functional
    rows, columns = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    waves = 127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)
    picture = Image.fromarray(waves.astype(np.uint8))
    bicubic = vision.InterpolationMode.BICUBIC
    expected = vision.center_crop(vision.resize(picture, int(size / ratio), bicubic), size)
    top, left, height, width = View(size, crop_ratio=ratio).centre(*shape)
    box = left, top, min(left + width, shape[1]), min(top + height, shape[0])  # sums may be a rounding beyond
    ours = picture.resize((size, size), Image.Resampling.BICUBIC, box)
    inside = np.s_[4:-4, 4:-4]  # at its border a box knows nothing of what is outside
    assert np.abs(np.asarray(ours, int)[inside] - np.asarray(expected, int)[inside]).max() <= 1
