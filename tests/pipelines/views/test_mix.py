from __future__ import annotations

import pytest
import torch
from operators import Operators

from pipelines.draws import MIX
from pipelines.errors import DataError
from pipelines.views.mix import drawn, mix, soft_targets
from pipelines.views.mix import mixed as mixed_as_drawn

G, K = 24, 5
IMAGES = torch.rand(G, 2, 9, 7, generator=torch.Generator().manual_seed(0))
TARGETS = soft_targets(torch.arange(G) % K, K)
ALPHAS = [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)]


def mixed(start: int, stop: int, mixup: float, cutmix: float, **key: int):
    key = {"seed": 0, "epoch": 0, "step": 0} | key
    return mix(IMAGES[start:stop], TARGETS[start:stop], mixup=mixup, cutmix=cutmix, position=start, **key)


@pytest.mark.parametrize("alphas", ALPHAS)
@pytest.mark.parametrize("size", [2, 4, 6, 8, 12])
def test_micro_batches_give_the_bits_of_the_global_batch(alphas: tuple[float, float], size: int):
    images, targets = mixed(0, G, *alphas)
    parts = [mixed(i, i + size, *alphas) for i in range(0, G, size)]
    assert torch.equal(torch.cat([x for x, _ in parts]), images)
    assert torch.equal(torch.cat([t for _, t in parts]), targets)


@pytest.mark.parametrize("alphas", ALPHAS)
def test_each_step_draws_anew(alphas: tuple[float, float]):
    base = mixed(0, G, *alphas)[0]
    for key in ({"seed": 1}, {"epoch": 1}, {"step": 1}):
        assert not torch.equal(mixed(0, G, *alphas, **key)[0], base)


def test_mixup_weighs_pictures_and_targets_alike():
    images, targets = mixed(0, G, 0.8, 0.0)
    for i in range(G):
        own, other = i % K, (i ^ 1) % K
        weight = targets[i, own]
        assert torch.allclose(images[i], IMAGES[i] * weight + IMAGES[i ^ 1] * (1 - weight), atol=1e-6)
        assert torch.isclose(targets[i, own] + targets[i, other], torch.tensor(1.0))


def test_cutmix_pastes_the_partners_rectangle_and_targets_follow_its_area():
    images, targets = mixed(0, G, 0.0, 1.0)
    for i in range(G):
        pasted = (images[i] != IMAGES[i]).any(0)
        assert torch.equal(images[i][:, pasted], IMAGES[i ^ 1][:, pasted])
        assert torch.equal(pasted, pasted.any(1)[:, None] & pasted.any(0))
        assert torch.isclose(targets[i, i % K], 1 - pasted.float().mean(), atol=1e-6)
        assert torch.equal(pasted, (images[i ^ 1] != IMAGES[i ^ 1]).any(0))


def test_off_is_the_identity_and_inputs_are_never_written():
    before = IMAGES.clone(), TARGETS.clone()
    images, targets = mixed(0, G, 0.0, 0.0)
    assert torch.equal(images, IMAGES) and torch.equal(targets, TARGETS)
    mixed(0, G, 0.8, 1.0)
    assert torch.equal(IMAGES, before[0]) and torch.equal(TARGETS, before[1])


def test_half_a_pair_is_refused():
    with pytest.raises(DataError, match="the micro-batch has 3 images from position 0"):
        mixed(0, 3, 0.8, 0.0)
    with pytest.raises(DataError, match="2 images from position 1"):
        mixed(1, 3, 0.8, 0.0)


def test_soft_targets_are_probabilities():
    targets = soft_targets(torch.tensor([0, 3]), 4, 0.1)
    assert torch.allclose(targets, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]]))


def as_it_was(images: torch.Tensor, targets: torch.Tensor, mixup: float, cutmix: float, key: dict[str, int]):
    """By a weight for each pixel from comparisons on the device, as it was computed until runs were made with it."""
    height, width = images.shape[-2:]
    draws = []
    for pair in range(len(images) // 2):
        rng = MIX.rng(key["seed"], key["epoch"], key["step"], pair)
        if mixup and (not cutmix or rng.random() < 0.5):
            own = float(rng.beta(mixup, mixup))
            draws.append((own, own, 0, 0, 0, 0))
        else:
            side = (1 - float(rng.beta(cutmix, cutmix))) ** 0.5
            h, w = round(height * side), round(width * side)
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            draws.append((1 - h * w / (height * width), 1.0, y, y + h, x, x + w))
    weight, outside, top, bottom, left, right = torch.tensor(draws).view(-1, 6, 1, 1).unbind(1)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    keep = outside.where(~inside, 0.0).view(-1, *[1] * (images.dim() - 2), height, width)

    def blend(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        pairs = x.view(-1, 2, *x.shape[1:])
        return (pairs * keep + pairs.flip(1) * (1 - keep)).flatten(0, 1)

    return blend(images, keep), blend(targets, weight)


@pytest.mark.parametrize("alphas", ALPHAS)
@pytest.mark.parametrize("shape", [(24, 3, 9, 7), (24, 4, 2, 8, 8)])
def test_the_bits_that_runs_were_made_with_stay(alphas: tuple[float, float], shape: tuple[int, ...]):
    images, key = torch.randn(shape, generator=torch.Generator().manual_seed(1)), {"seed": 3, "epoch": 1, "step": 2}
    expected = as_it_was(images, TARGETS, *alphas, key)
    found = mix(images, TARGETS, mixup=alphas[0], cutmix=alphas[1], position=0, **key)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    if images.dim() == 4:  # a GPU's layout
        laid = images.contiguous(memory_format=torch.channels_last)
        last, _ = mix(laid, TARGETS, mixup=alphas[0], cutmix=alphas[1], position=0, **key)
        assert torch.equal(last, expected[0]) and last.is_contiguous(memory_format=torch.channels_last)


def test_soft_targets_have_the_bits_of_a_sum_of_one_hot_labels():
    for classes in (2, 10, 100, 1000):
        labels = torch.arange(64) % classes
        one_hot = torch.nn.functional.one_hot(labels, classes).float()
        for smoothing in (0.0, 0.1, 0.2, 0.3, 1 / 3, 0.999, 1e-9):
            expected = one_hot * (1 - smoothing) + smoothing / classes
            assert torch.equal(soft_targets(labels, classes, smoothing), expected)


def test_a_batch_takes_as_many_operators_whatever_its_size():
    for count in (2, 24):
        how = drawn(count, (9, 7), mixup=0.8, cutmix=1.0, seed=0, epoch=0, step=0, position=0)
        with Operators() as called:
            mixed_as_drawn(IMAGES[:count], TARGETS[:count], how)
        assert len(called.names) == 11, called.names
        labels = torch.arange(count) % K
        with Operators() as called:
            soft_targets(labels, K, 0.1)
        assert called.names == ["full", "scatter_"]
