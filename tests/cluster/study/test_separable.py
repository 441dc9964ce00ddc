"""Least squares by variable projection: what numbers were made with comes back."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.study.separable import LIMITS, Form, at_limit, solve

LAW = Form("y = E + A x^-a", ("E", "A"), ("a",), lambda theta, x: np.stack([np.ones(len(x)), x[:, 0] ** -theta[0]], 1))
X = np.geomspace(1, 1e9, 12)[:, None]


@pytest.mark.parametrize("exponent", [0.05, 0.4, 2.0])
def test_factors_and_exponents_come_back(exponent: float) -> None:
    found = solve(LAW, X, 1.5 + 40 * X[:, 0] ** -exponent)
    assert found.values == pytest.approx([1.5, 40, exponent], rel=1e-6) and found.cost < 1e-12
    assert found(LAW, X[:2]) == pytest.approx([41.5, 1.5 + 40 * X[1, 0] ** -exponent])
    assert not at_limit(found.exponents[0])


def test_factors_are_not_negative_unless_they_may_be() -> None:
    y = 3 - X[:, 0] ** -0.4
    free = Form(LAW.formula, LAW.factors, LAW.exponents, LAW.basis, free=True)
    assert solve(free, X, y).values == pytest.approx([3, -1, 0.4], rel=1e-6)
    assert solve(LAW, X, y).factors[1] >= 0


def test_one_far_off_moves_hubers_loss_less() -> None:
    y = 1.5 + 40 * X[:, 0] ** -0.4
    y[6] *= 2
    off = [abs(solve(LAW, X, y, robust).exponents[0] - 0.4) for robust in (False, True)]
    assert off[1] < off[0] / 10


def test_a_search_that_ends_at_its_limit_says_so() -> None:
    assert at_limit(LIMITS[0]) and at_limit(LIMITS[1]) and not at_limit(1.0)
