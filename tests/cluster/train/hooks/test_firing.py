"""The columns `firing_rate` and `silent`: of steps that are logged alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cluster.config import load
from cluster.train.hooks.firing import FiringRates
from cluster.train.step import Step
from tdformer import create_model
from tdformer.measure import measure_firing


def step(logs: bool) -> Step:
    return Step(number=1, epoch=0, lr=0.1, logs=logs, images=4, begun=0.0, waited=0.0)


@pytest.mark.parametrize("logs", [True, False])
def test_they_are_the_means_over_the_units_of_a_logged_step(logs: bool) -> None:
    torch.manual_seed(0)
    model, images = create_model("quickstart", image_size=16, time_steps=2).eval(), torch.rand(4, 1, 16, 16)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.bias"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    assert FiringRates.wanted(load())
    hook, one = FiringRates(load()), step(logs)
    hook.begin(SimpleNamespace(engine=SimpleNamespace(module=model)), [])
    with torch.no_grad(), hook.during(one):
        model(images)
    hook.step(one)
    with torch.no_grad(), measure_firing(model) as firing:
        model(images)
    units = [*firing.values()]
    rate, silent = (sum(getattr(unit, of) for unit in units) / len(units) for of in ("rate", "silent"))
    assert 0 < rate < 1 and one.row == ({"firing_rate": rate, "silent": silent} if logs else {})
    assert not any(module._forward_hooks for module in model.modules())
