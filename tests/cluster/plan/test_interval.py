"""Young's and Daly's intervals, against the loss that they make least."""

from __future__ import annotations

import math

import pytest

from cluster.plan.interval import daly, lost, young


def test_young() -> None:
    assert young(2.0, 10_000.0) == pytest.approx(200.0)


@pytest.mark.parametrize(("stall", "between"), [(1.0, 3600.0), (5.0, 86_400.0), (60.0, 7200.0)])
def test_it_loses_least(stall: float, between: float) -> None:
    best = daly(stall, between)
    assert best == pytest.approx(young(stall, between), rel=0.2)
    least = lost(best, stall, between, 60.0)
    assert all(lost(best * factor, stall, between, 60.0) > least for factor in (0.5, 0.8, 1.25, 2.0))


def test_daly_is_daly() -> None:
    """Equation 37: sqrt(2 d M) [1 + 1/3 sqrt(d / 2M) + 1/9 (d / 2M)] - d."""
    assert daly(600.0, 86_400.0) == pytest.approx(
        math.sqrt(2 * 600 * 86_400) * (1 + math.sqrt(600 / 172_800) / 3 + 600 / 172_800 / 9) - 600
    )
    assert daly(100.0, 40.0) == 40.0  # failures come faster than checkpoints


def test_a_share() -> None:
    assert lost(600.0, 0.0, 36_000.0, 60.0) == pytest.approx(0.01)
    assert lost(600.0, 1.0, 1.0, 60.0) == 1.0
