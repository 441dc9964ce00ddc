"""Mutual information of spikes: of laws whose information is known, and of what real networks fire."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tdformer import ModelError
from tdformer.measure import mutual_information, off_diagonal


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def drawn(rate: float, *shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(rng(seed).random(shape) < rate)


def entropy(*shares: float) -> float:
    return -sum(p * math.log2(p) for p in shares if p)


def test_independent_steps_have_none_and_are_within_the_null() -> None:
    found = mutual_information(drawn(0.3, 3, 200, 32, 9), rng(1))
    null = off_diagonal(found.null).quantile(torch.tensor([0.005, 0.995]).double())
    assert null[0] < off_diagonal(found.bits) < null[1]
    assert abs(float(off_diagonal(found.bits))) < 3 * float(found.error[0, 1]) + 2e-5
    assert float(null[1]) < 1e-4 < float(off_diagonal(found.plain))  # 1 / (2 n ln 2) is 4e-4


def test_identical_steps_have_their_entropy() -> None:
    one = drawn(0.2, 1, 400, 16, 25)
    found = mutual_information(one.expand(3, *one.shape[1:]), rng(), 2)
    assert found.bits.unique(return_counts=True)[0].max() - found.bits.min() < 1e-12
    assert float(found.bits[0, 1]) == pytest.approx(entropy(0.2, 0.8), abs=4 * float(found.error[0, 1]))
    assert (off_diagonal(found.null).abs() < 1e-3).all()  # shuffled, they are independent


@pytest.mark.parametrize("flipped", [0.05, 0.2])
def test_of_a_binary_symmetric_channel_it_is_its_capacity(flipped: float) -> None:
    sent = drawn(0.5, 400, 16, 25, seed=1)
    heard = sent ^ drawn(flipped, 400, 16, 25, seed=2)
    found = mutual_information(torch.stack([sent, heard]), rng(), 2)
    expected = 1 - entropy(flipped, 1 - flipped)
    assert float(found.bits[0, 1]) == pytest.approx(expected, abs=4 * float(found.error[0, 1]))
    assert float(found.error[0, 1]) < 0.01 and torch.equal(found.bits, found.bits.T)


def test_what_channels_say_only_together_is_found_in_groups() -> None:
    """The second step's first channel is whether the first step's two differ: neither of them says anything of it."""
    a, b, c = (drawn(0.5, 500, 1, 16, seed=i) for i in range(3))
    steps = torch.stack([torch.cat([a, b], 1), torch.cat([a ^ b, c], 1)])
    apart, together = mutual_information(steps, rng(), 0), mutual_information(steps, rng(), 0, group=2)
    assert abs(float(apart.bits[0, 1])) < 0.001
    assert float(together.bits[0, 1]) == pytest.approx(1, abs=0.01)
    assert float(together.bits[0, 0]) == pytest.approx(2, abs=0.01)


def test_the_bias_that_is_taken_away_is_that_of_images_and_not_of_positions() -> None:
    """All positions of an image are alike: there are 100 samples and not 2,500."""
    images, errors = 100, []
    for seed in range(12):
        alike = drawn(0.3, 2, images, 32, 1, seed=seed).expand(-1, -1, -1, 25)
        found = mutual_information(alike, rng(), 0)
        errors.append([float(found.plain[0, 1]), float(found.bits[0, 1])])
    plain, bits = np.mean(errors, 0)
    expected = 1 / (2 * images * math.log(2))
    assert plain == pytest.approx(expected, rel=0.15)
    assert abs(bits) < 0.15 * plain


def test_small_samples_are_biased_less() -> None:
    """Estimates of 20 to 160 images against the truth, which is 0: the bias goes as 1 / images, and a small share of it
    is left, the smallest of many images."""
    spikes = drawn(0.2, 2, 1600, 64, 4)
    for images, left in ((20, 0.2), (40, 0.1), (160, 0.06)):
        found = [mutual_information(part, rng(), 0) for part in spikes.split(images, 1)]
        plain, bits = (float(torch.stack([getattr(f, of)[0, 1] for f in found]).mean()) for of in ("plain", "bits"))
        assert plain == pytest.approx(1 / (2 * images * 4 * math.log(2)), rel=0.1)
        assert abs(bits) < left * plain, images


def test_positions_that_never_fire_are_in_the_null() -> None:
    """Half of the positions are silent: which position it is says something, whatever the image."""
    spikes = drawn(0.5, 2, 300, 16, 8)
    spikes[..., :4] = False
    found = mutual_information(spikes, rng())
    expected = entropy(0.25, 0.75) - 0.5  # H(X) - H(X | position); given that of X, Y says no more
    shared = 2 * entropy(0.25, 0.75) - entropy(0.625, 0.125, 0.125, 0.125)
    assert float(found.bits[0, 1]) == pytest.approx(shared, abs=0.005) and shared < expected
    assert float(off_diagonal(found.null).mean()) == pytest.approx(shared, abs=0.005)


def test_constant_features_have_none() -> None:
    never = torch.zeros(2, 50, 4, 3, dtype=torch.bool)
    always = torch.stack([~never[0], drawn(0.5, 50, 4, 3)])
    for spikes in (never, ~never, always):
        found = mutual_information(spikes, rng(), 3)
        assert float(found.bits[0, 1]) == float(found.error[0, 1]) == 0 and not found.null[:, 0, 1].any()
    assert float(found.bits[1, 1]) > 0.9


def test_the_same_draws_give_the_same_bits_and_images_may_be_uneven() -> None:
    spikes = drawn(0.4, 3, 47, 5, 2, 2)  # 20 parts of 2 or 3 images
    one, two, other = (mutual_information(spikes, rng(seed), 3) for seed in (5, 5, 6))
    assert torch.equal(one.null, two.null) and not torch.equal(one.null, other.null)
    assert torch.equal(one.bits, other.bits) and one.null.shape == (3, 3, 3)
    assert math.isnan(float(off_diagonal(torch.zeros(1, 1))))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ModelError, match="8 images and 6 channels are too few for groups of 2; give at least 9 images"):
        mutual_information(drawn(0.5, 2, 8, 6, 4), rng(), group=2)
    with pytest.raises(ModelError, match="give at least 2 images and 1 channels"):
        mutual_information(drawn(0.5, 2, 1, 6, 4), rng())
    with pytest.raises(ModelError, match="2 channels are too few for groups of 3"):
        mutual_information(drawn(0.5, 2, 60, 2, 4), rng(), group=3)
