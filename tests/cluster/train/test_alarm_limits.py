"""What lies at a limit of `health` is no trouble, and what lies above it is."""

from __future__ import annotations

import pytest

from cluster.config import Config
from cluster.train.hooks.alarms import Alarms
from tdformer.measure import Firing


def alarms() -> Alarms:
    made = Alarms(Config())
    made.hosts = ["a", "b", "c"]
    made.losses.extend([2.0] * 5)
    return made


@pytest.mark.parametrize(("loss", "told"), [(2.0, 0), (5.9, 0), (6.0, 0), (6.1, 1)])
def test_a_spike_is_above_its_limit(loss: float, told: int) -> None:
    assert len(alarms().loss(loss)) == told


@pytest.mark.parametrize(("seconds", "told"), [(1.0, 0), (1.5, 0), (1.6, 1)])
def test_a_slow_rank_is_above_its_limit(seconds: float, told: int) -> None:
    assert len(alarms().ranks([1.0, 1.0, seconds])) == told


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        (Firing(0.0001, 0.0), 0),
        (Firing(0.00009, 0.0), 1),
        (Firing(0.7, 0.0), 0),
        (Firing(0.8, 0.0), 0),
        (Firing(0.81, 0.0), 1),
        (Firing(0.5, 0.9), 0),
        (Firing(0.5, 0.91), 1),
    ],
)
def test_a_layer_is_beyond_its_limits(unit: Firing, told: int) -> None:
    assert len(alarms().firing({"stem": unit})) == told
