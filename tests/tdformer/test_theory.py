"""Theorem 4.3 (temporal gradient) and the variance bound of Proposition 4.1, in numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tdformer.attention import SelfAttention
from tdformer.feedback import FeedbackOptions, attention_map
from tdformer.measure.potentials import potentials as measured
from tdformer.measure.sensitivity import sensitivities
from tdformer.neuron import NeuronOptions, lif
from tdformer.state import State, name_units
from tdformer.unit import UnitOptions

# ------------------------------------------------------------------------------------------------- Theorem 4.3


def inside_the_theorem(v: float, tau: float) -> NeuronOptions:
    return NeuronOptions(tau=tau, threshold=v, v_reset=None, surrogate="rectangular", alpha=1 / v, detach_reset=False)


def next_potential(h: Tensor, options: NeuronOptions) -> Tensor:
    """H(t+1) as a function of H(t), through the package's own neuron; the next current keeps H(t+1) far below v."""
    _, membrane = lif(h[None] * options.tau, None, options)  # V = 0, so H(t) is the current / tau
    return lif(torch.full_like(h[None], -100.0), membrane, options)[1]  # no spike, so V(t+1) = H(t+1)


def slope(h: Tensor, of: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(of.sum(), h)
    return gradient


def potentials(v: float) -> Tensor:
    """Around the window (v/2, 3v/2), its edges left out."""
    h = torch.linspace(-v, 3 * v, 401, dtype=torch.float64)
    return h[((h - v / 2).abs() > 1e-9) & ((h - 3 * v / 2).abs() > 1e-9)].requires_grad_()


@pytest.mark.parametrize("v", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tau", [1.5, 2.0, 4.0])
def test_without_feedback_the_gradient_vanishes_near_the_threshold(v: float, tau: float) -> None:
    h = potentials(v)
    gradient = slope(h, next_potential(h, inside_the_theorem(v, tau)))
    inside = (h > v / 2) & (h < 3 * v / 2)
    assert inside.sum() > 90 and (~inside).sum() > 90
    torch.testing.assert_close(gradient[inside], torch.zeros_like(gradient[inside]), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient[~inside], torch.full_like(gradient[~inside], 1 - 1 / tau))


def test_the_default_neuron_lies_outside_the_theorem() -> None:
    """A hard reset that is detached has (1 - 1/tau) (1 - S): not 0 below the threshold, and 0 everywhere above it. One
    that is not has 1 - S - H dS/dH there, and the sigmoid's dS/dH has no window."""
    h = potentials(1.0)
    fired = (h >= 1.0).double().detach()
    torch.testing.assert_close(slope(h, next_potential(h, NeuronOptions())), 0.5 * (1 - fired))
    sharp = torch.sigmoid(4 * (h - 1)).detach()
    expected = 0.5 * (1 - fired - h.detach() * 4 * sharp * (1 - sharp))
    torch.testing.assert_close(slope(h, next_potential(h, NeuronOptions(detach_reset=False))), expected)


def attention(pm: int, options: NeuronOptions, **weights: float) -> SelfAttention:
    """An attention of one channel with its control and processing module. Its key's current is its input and the mixed
    feedback: the weight of the projection is 1 and its BatchNorm does nothing."""
    fed = FeedbackOptions(cm=1, pm=pm, clamp=(0.0, 2.0))
    made = SelfAttention(UnitOptions(options), 1, 1, feedback=fed).double().eval()
    for name, module in made.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, weights["mix"] if name == "control.mix" else 1.0)
    for unit in (made.q, made.k, made.v):
        nn.init.constant_(unit.current.norm.weight, math.sqrt(1 + unit.current.norm.eps))
    assert made.control is not None
    nn.init.constant_(made.control.processing.w, weights["w"])
    name_units(made)
    return made


@pytest.mark.parametrize("v", [0.5, 1.0])
@pytest.mark.parametrize("tau", [1.5, 2.0])
@pytest.mark.parametrize("pm", [1, 2, 3, 4])
def test_with_feedback_it_is_the_slope_of_the_feedback(v: float, tau: float, pm: int) -> None:
    """The key neuron's spikes are the high-level ones here, and come back to it in the next segment, of one step,
    through the real processing and control module: dH(t+1)/dH(t) = d phi / d S (times dS/dH = 1/v) in the window, and
    1 - 1/tau outside. phi is worked out by hand from Eqs 16 and 18-20."""
    mix, w = 0.7, {1: 0.8 * v * tau, 2: 1.0, 3: 0.3, 4: 0.1}[pm]
    model = attention(pm, inside_the_theorem(v, tau), mix=mix, w=w)
    h = potentials(v)
    state = State(steps=1)
    _, high, _ = model.steered((h * tau).view(1, 1, 1, 1, -1), None, state)
    state.segment = 1
    far = torch.full_like(high, -100.0)
    model.steered(far, high, state)
    gradient = slope(h, state.membrane["k.neuron"])
    # Of the processing module, S in {0, 1}: its current I, and dI / dS.
    s = (h >= v).double().detach()
    current, d_current = {1: (w * s, 2 * w * s), 2: (w * s, 2 * w * s), 3: (s, 1 + 0 * s), 4: (s + w, 1 + 0 * s)}[pm]
    decay = 1 / tau if pm in (1, 4) else 1 / (1 + math.exp(-w))
    near = ((current * decay > v / 2) & (current * decay < 3 * v / 2)).double()
    d_phi = mix / tau * near / v * decay * d_current
    inside = (h > v / 2) & (h < 3 * v / 2)
    torch.testing.assert_close(gradient[inside], d_phi[inside] / v)
    torch.testing.assert_close(gradient[~inside], torch.full_like(gradient[~inside], 1 - 1 / tau))
    assert d_phi[inside].any()


def test_it_is_measured_as_the_theorem_says() -> None:
    """The figure `sensitivity` takes gradients of potentials that run beside the fused neuron: here the same."""
    model = attention(1, inside_the_theorem(1.0, 2.0), mix=0.7, w=1.6)
    h = potentials(1.0)
    state = State(steps=1)
    with measured(model) as found:
        _, high, _ = model.steered((h * 2).view(1, 1, 1, 1, -1), None, state)
        state.segment = 1
        model.steered(torch.full_like(high, -100.0), high, state)
    [one] = sensitivities(found, ["k.neuron"], torch.ones_like)
    expected = slope(h, state.membrane["k.neuron"])
    assert (one.source, one.target) == (1, 2) and expected.unique().numel() > 2
    torch.testing.assert_close(one.values.flatten(), expected.abs())


# ------------------------------------------------------------------------------------------------ Proposition 4.1


def variance_bound(f: float, a: float, b: float) -> float:
    """The largest variance of X M, X a spike of probability f and b <= M <= a, |b| <= a. Given that X = 1, M of mean mu
    has E[M^2] <= (a + b) mu - a b, so Var <= f ((a + b) mu - a b) - f^2 mu^2 (Eq 36), a parabola in mu with its top at
    (a + b) / (2f). Left of f = (a + b) / (2a) the top lies beyond a, and mu = a is the best there is."""
    if f <= (a + b) / (2 * a):
        return a**2 * f * (1 - f)
    return (a + b) ** 2 / 4 - f * a * b


def printed_bound(f: float, a: float, b: float) -> float:
    """Prop. 4.1 as the paper prints it: in its first branch the square of Eq 36 is added, not subtracted."""
    if f <= (a + b) / (2 * a):
        return a**2 * (f**2 - f + 0.5) + a * b * (1 - 2 * f) + b**2 / 2
    return (a**2 + 2 * a * b + b**2 - 4 * f * a * b) / 4


LIMITS = [(0.0, 1.0), (0.0, 2.0), (0.5, 1.0), (0.2, 1.5), (-0.5, 1.0), (-1.0, 1.0)]
RATES = [0.0, 0.05, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0]


def largest_variance(f: float, a: float, b: float) -> float:
    """By brute force. Of all distributions of M on a grid with one mean, the variance is linear in the distribution, so
    its extremes have two values: all pairs of values, and all odds between them."""
    values = torch.linspace(b, a, 41, dtype=torch.float64)
    odds = torch.linspace(0, 1, 401, dtype=torch.float64)
    one, two, p = values.view(-1, 1, 1), values.view(1, -1, 1), odds.view(1, 1, -1)
    mean, square = f * (p * one + (1 - p) * two), f * (p * one**2 + (1 - p) * two**2)
    return (square - mean**2).max().item()


@pytest.mark.parametrize(("b", "a"), LIMITS)
@pytest.mark.parametrize("f", RATES)
def test_the_corrected_bound_is_the_largest_variance(f: float, b: float, a: float) -> None:
    bound = variance_bound(f, a, b)
    assert largest_variance(f, a, b) == pytest.approx(bound, abs=2e-5 * a**2)  # the odds are a grid
    assert bound <= printed_bound(f, a, b) + 1e-12
    if f < (a + b) / (2 * a):
        assert printed_bound(f, a, b) - bound == pytest.approx((a + b - 2 * f * a) ** 2 / 2)


def test_the_printed_bound_is_ten_times_too_high_at_the_papers_rate() -> None:
    assert variance_bound(0.05, 1.0, 0.0) == pytest.approx(0.0475)
    assert printed_bound(0.05, 1.0, 0.0) == pytest.approx(0.4525)
    assert largest_variance(0.05, 1.0, 0.0) == pytest.approx(0.0475)


@given(
    st.sampled_from(LIMITS),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=6),
)
def test_no_distribution_goes_beyond_it(
    limits: tuple[float, float], f: float, atoms: list[tuple[float, float]]
) -> None:
    (b, a), total = limits, sum(weight for _, weight in atoms)
    m = [(b + (a - b) * place, f * weight / total) for place, weight in atoms]
    mean, square = (sum(weight * value**power for value, weight in m) for power in (1, 2))
    assert square - mean**2 <= variance_bound(f, a, b) + 1e-9


@pytest.mark.parametrize(("b", "a"), LIMITS)
@pytest.mark.parametrize("f", RATES)
def test_what_the_processing_module_gates_stays_below_it(f: float, b: float, a: float) -> None:
    """There M depends on X; the rate of each channel is counted, so that chance has no part in it."""
    torch.manual_seed(0)
    x = (torch.rand(1, 2000, 8, 1, 1) < f).double()
    for scale in (0.1, 1.0, 10.0):
        gated = x * attention_map(x, scale * torch.randn(8, dtype=torch.float64), b, a)
        for channel in range(8):
            rate = x[0, :, channel].mean().item()
            variance = gated[0, :, channel].var(correction=0).item()
            assert variance <= variance_bound(rate, a, b) + 1e-9


def test_the_two_branches_of_the_bound_meet() -> None:
    for b, a in LIMITS:
        f = (a + b) / (2 * a)
        assert variance_bound(f, a, b) == pytest.approx(variance_bound(f + 1e-12, a, b), abs=1e-9)
