"""Theorem 4.3 (temporal gradient) and the variance bound of Proposition 4.1, in numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tdformer.feedback import attention_map
from tdformer.neuron import NeuronOptions, lif


def next_potential(h: Tensor, v: float, tau: float, phi=None) -> Tensor:
    """H(t+1) as a function of H(t), through the package's own neuron; the next current keeps H(t+1) far below v."""
    options = {"threshold": v, "v_reset": None, "surrogate": "rectangular", "alpha": 1 / v, "detach_reset": False}
    spikes, membrane = lif(h[None], None, NeuronOptions(tau=1.0, **options))  # tau = 1 and V = 0: H(t) is the current
    current = torch.full_like(h, -100.0)
    if phi is not None:
        current = current + tau * phi(spikes[0])  # so that phi(S) is what is added to H(t+1)
    return lif(current[None], membrane, NeuronOptions(tau=tau, **options))[1]  # no spike, so V(t+1) = H(t+1)


@pytest.mark.parametrize("v", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tau", [1.5, 2.0, 4.0])
def test_without_feedback_the_gradient_vanishes_near_the_threshold(v: float, tau: float) -> None:
    h = torch.linspace(-v, 3 * v, 401, dtype=torch.float64)
    h = h[((h - v / 2).abs() > 1e-9) & ((h - 3 * v / 2).abs() > 1e-9)].requires_grad_()
    (gradient,) = torch.autograd.grad(next_potential(h, v, tau).sum(), h)
    inside = (h > v / 2) & (h < 3 * v / 2)
    assert inside.sum() > 90 and (~inside).sum() > 90
    torch.testing.assert_close(gradient[inside], torch.zeros_like(gradient[inside]), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[~inside], torch.full_like(gradient[~inside], 1 - 1 / tau))


def test_with_feedback_it_is_the_slope_of_the_feedback() -> None:
    h = torch.linspace(-0.99, 2.99, 400, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(next_potential(h, 1.0, 2.0, lambda s: 0.7 * s**2 + 0.2 * s).sum(), h)
    inside = (h > 0.5) & (h < 1.5)
    slope = 1.4 * (h >= 1.0).to(h.dtype) + 0.2
    torch.testing.assert_close(gradient[inside], slope[inside].detach())
    torch.testing.assert_close(gradient[~inside], torch.full_like(gradient[~inside], 0.5))


def variance_bound(f: float, a: float, b: float) -> float:
    """Prop. 4.1."""
    if f <= (a + b) / (2 * a):
        return a**2 * (f**2 - f + 0.5) + a * b * (1 - 2 * f) + b**2 / 2
    return (a**2 + 2 * a * b + b**2 - 4 * f * a * b) / 4


@pytest.mark.parametrize(("b", "a"), [(0.0, 1.0), (0.0, 2.0), (0.5, 1.0), (0.2, 1.5)])
@pytest.mark.parametrize("f", [0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_the_variance_of_gated_spikes_stays_below_the_bound(f: float, b: float, a: float) -> None:
    n, channels = 20000, 8
    x = (torch.rand(1, n, channels, 1, 1) < f).double()
    w = torch.randn(channels, dtype=torch.float64)
    maps = [attention_map(x, w, b, a).expand_as(x)]  # what the processing module computes: M depends on X
    for power in (0.1, 1.0, 10.0):  # M independent of X, heaped at either end or spread
        maps.append(b + (a - b) * torch.rand_like(x) ** power)
    for p in (0.25, 0.5, 0.75):
        maps.append(torch.where(torch.rand_like(x) < p, a, b).double())
    variances = []
    for m in maps:
        assert b <= m.min() and m.max() <= a
        variances.append((x * m).flatten(0, 1).var(0).max().item())
    assert max(variances) <= variance_bound(f, a, b) + 0.02 * a**2
    if f == 1.0:  # there the bound is reached, by M = a or b at even odds
        assert max(variances) > 0.95 * variance_bound(f, a, b)


def test_the_two_branches_of_the_bound_meet() -> None:
    for a, b in ((1.0, 0.0), (2.0, 0.5)):
        f = (a + b) / (2 * a)
        assert variance_bound(f, a, b) == pytest.approx(variance_bound(f + 1e-12, a, b), abs=1e-9)
