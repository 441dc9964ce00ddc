"""The average of the weights."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from cluster.config import load
from cluster.train.hooks.ema import EMA
from cluster.train.step import Step


def test_the_average_follows_the_weights_where_they_moved() -> None:
    module = torch.nn.BatchNorm1d(2)
    ema = EMA(load(None, ["train.ema_decay=0.75"]))
    ema.begin(SimpleNamespace(engine=SimpleNamespace(module=module)), [])  # type: ignore[arg-type] # all that it looks at
    with torch.no_grad():
        module.weight.fill_(5.0)
        module.running_mean.fill_(8.0)
    step = Step(number=1, epoch=0, lr=0.1, logs=False, images=8, begun=0.0, waited=0.0)
    ema.step(step)
    assert ema.weights()["weight"].tolist() == ema.tensors()["running_mean"].tolist() == [2.0, 2.0]
    step.applied = False
    ema.step(step)
    assert ema.weights()["weight"].tolist() == [2.0, 2.0]
