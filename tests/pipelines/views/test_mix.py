from __future__ import annotations

import pytest
import torch

from pipelines.errors import DataError
from pipelines.views.mix import mix, soft_targets

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
