"""What is wrong with the loss, a rank or a layer is told once."""

from __future__ import annotations

from cluster.config import Config
from cluster.train.hooks.alarms import Alarms
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
