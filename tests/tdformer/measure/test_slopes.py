"""Surrogate gradients of the processing module where its potentials are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tdformer.measure.slopes import cores, processing_slopes, unclamped


def sigmoid_slope(u: float) -> float:
    s = 1 / (1 + math.exp(-4 * u))
    return 4 * s * (1 - s)


@pytest.mark.parametrize(
    ("neuron", "expected"), [({}, sigmoid_slope), ({"surrogate": "rectangular", "alpha": 0.9}, None)]
)
def test_with_and_without_the_clamp(tiny: Any, calibrate: Any, neuron: dict[str, Any], expected: Any) -> None:
    """One step a segment, so H = X M / tau: with the clamp M is 1 where something fires, without it 10 a spike."""
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    model = calibrate(tiny("tiny_spikformer", time_steps=2, segments=2, feedback="last", **neuron), images)
    [(name, module)] = cores(model).items()
    with torch.no_grad():
        module.w.fill_(10.0)
    inputs: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda m, given: inputs.append(given[0]))
    found = {}
    found[True] = processing_slopes(model, images)[name]
    with unclamped(model):
        found[False] = processing_slopes(model, images)[name]
    hook.remove()
    assert (module.low, module.high) == (0.0, 1.0)
    [x, again] = inputs
    assert torch.equal(x, again) and 0 < (x > 0).double().mean() < 1
    m = {True: (x.sum(2, keepdim=True) > 0).double(), False: 10 * x.sum(2, keepdim=True)}
    for clamp, slopes in found.items():
        h = x * m[clamp] / 2
        values = [(sigmoid_slope(u) if expected else 0.9 * (abs(u) < 0.5 / 0.9)) for u in (h - 1).flatten().tolist()]
        torch.testing.assert_close(slopes.values.flatten(), torch.tensor(values, dtype=torch.float64))
        assert torch.equal(slopes.driven, x != 0)
        assert slopes.most == pytest.approx(1.0 if expected else 0.9)
