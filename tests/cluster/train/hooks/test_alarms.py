"""What is wrong with the loss, a rank or a layer is told once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.config import Config
from cluster.train.hooks.alarms import Alarms
from cluster.train.step import Step
from tdformer.measure import Firing


def test_alarms_begin_once_and_again_after_an_end() -> None:
    alarms = Alarms(Config())
    alarms.hosts = ["a", "b", "c"]
    alarms.losses.extend([2.0] * 4)
    assert alarms.loss(9.0) == [] == alarms.loss(None)  # too few to know what is usual
    assert len(alarms.loss(9.0)) == 1 and alarms.loss(9.0) == []
    assert alarms.loss(2.0) == [] and len(alarms.loss(7.0)) == 1
    assert alarms.ranks([1.0, 1.1, 1.4]) == []
    assert alarms.ranks([1.0, 1.1, 1.7]) == [
        "rank 2 on c takes 1.5 times the median rank's time for its data and forward pass"
    ]
    assert alarms.ranks([1.0, 1.1, 1.8]) == []
    assert len(alarms.ranks([2.0, 1.1, 1.2])) == 1 and len(alarms.ranks([1.0, 1.1, 1.8])) == 1
    units = {"stem": Firing(0.1, 0.2), "block": Firing(0.0, 1.0), "head": Firing(0.9, 0.0)}
    assert alarms.firing(units) == [
        "block has firing rate 0.0000, outside [0.0001, 0.8]",
        "head has firing rate 0.9000, outside [0.0001, 0.8]",
        "100% of the channels of block never fired in a step",
    ]
    assert alarms.firing(units) == []


def test_each_rank_tells_its_own_time_between_two_rows() -> None:
    alarms = Alarms(Config())
    alarms.begin(SimpleNamespace(rank=1, world=3, hosts=["a", "b", "c"]), [{"loss": 2.0}, {"eval_loss": 1.0}])  # type: ignore[arg-type] # all that it looks at
    assert alarms.slots(3) == {"seconds": 3} and list(alarms.losses) == [2.0]
    step = Step(number=1, epoch=0, lr=0.1, logs=False, images=8, begun=0.0, waited=0.25, worked=0.5)
    assert alarms.share(step) == {"seconds": [0.0, 0.75, 0.0]}
    step.sums = {"seconds": [1.0, 2.0, 3.0]}
    alarms.step(step)
    alarms.step(step)
    assert alarms.seconds == [2.0, 4.0, 6.0]


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
