"""Surrogates: each is the derivative of a smooth step from 0 to 1 around the threshold."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tdformer.surrogate import SURROGATES

SMOOTH: dict[str, Callable[[float, float], float]] = {
    "sigmoid": lambda u, alpha: 1 / (1 + math.exp(-alpha * u)),
    "arctan": lambda u, alpha: math.atan(math.pi / 2 * alpha * u) / math.pi + 0.5,
    "rectangular": lambda u, alpha: min(max(alpha * u + 0.5, 0.0), 1.0),
}


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("alpha", [0.7, 1.0, 4.0])
def test_each_is_the_slope_of_its_step(name: str, alpha: float) -> None:
    near = torch.linspace(-2, 2, 41, dtype=torch.float64) + 0.003  # not on an edge of the window
    step, small = SMOOTH[name], 1e-6
    slopes = [(step(u + small, alpha) - step(u - small, alpha)) / (2 * small) for u in near.tolist()]
    before = near.clone()
    torch.testing.assert_close(SURROGATES[name](near, alpha).tolist(), slopes, rtol=1e-6, atol=1e-8)
    assert torch.equal(near, before)  # the distances are somebody else's


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_a_whole_spike_lies_under_each(name: str, alpha: float) -> None:
    u = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    slope = SURROGATES[name](u, alpha)
    assert float(torch.trapezoid(slope, u)) == pytest.approx(1, abs=5e-3)
    torch.testing.assert_close(slope, slope.flip(0))
    assert slope[len(u) // 2] == slope.max()


def test_the_window_is_open_and_has_the_width_of_the_theorem() -> None:
    """Theorem 4.3: 1 / V_th wide with alpha = 1 / V_th, around V_th."""
    u = torch.tensor([-1.0, -0.5, -0.499, 0.0, 0.499, 0.5, 1.0])
    assert SURROGATES["rectangular"](u, 1.0).tolist() == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_shape_and_type_stay(name: str, dtype: torch.dtype) -> None:
    slope = SURROGATES[name](torch.randn(3, 2, 4, dtype=dtype), 2.0)
    assert slope.shape == (3, 2, 4) and slope.dtype == dtype
