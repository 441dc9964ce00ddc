"""Surrogate gradients: what stands for the derivative of the step function in backward.

`u = H - V_th` is the distance to the threshold; every function returns `d spike / d u`, same shape as `u`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sigmoid(u: Tensor, alpha: float) -> Tensor:
    """Derivative of sigmoid(alpha u)."""
    s = torch.sigmoid(u * alpha)
    return (1 - s).mul_(s).mul_(alpha)


def arctan(u: Tensor, alpha: float) -> Tensor:
    """Derivative of arctan(pi alpha u / 2) / pi + 1/2."""
    return (u * (math.pi / 2 * alpha)).square_().add_(1).reciprocal_().mul_(alpha / 2)


def rectangular(u: Tensor, alpha: float) -> Tensor:
    """`alpha` inside a window of width 1 / alpha around the threshold, 0 outside (Theorem 4.3: alpha = 1 / V_th)."""
    return (u.abs() < 0.5 / alpha).to(u.dtype).mul_(alpha)


SURROGATES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": sigmoid,
    "arctan": arctan,
    "rectangular": rectangular,
}
