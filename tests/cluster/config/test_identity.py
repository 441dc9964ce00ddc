"""What may differ when a run goes on."""

from __future__ import annotations

from cluster import config as configs
from cluster.config import Config, load


def test_what_may_differ_when_a_run_goes_on():
    moved = load(None, ["data.root=/elsewhere", "data.workers=2", "train.processes=2", "checkpoint.keep=5"])
    assert configs.differences(Config(), moved) == []
    other = load(None, ["train.lr=0.002", "model.feedback=[0]", "log.every_steps=1"])
    assert configs.differences(Config(), other) == [
        "model.feedback (null, now [0])",
        "train.lr (0.001, now 0.002)",
        "log.every_steps (10, now 1)",
    ]
    assert set(configs.flat(Config())) > configs.NEUTRAL
