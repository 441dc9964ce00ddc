"""H[t] of every neuron beside the fused kernels: the same network, to the bit, and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tdformer import ModelError, create_model
from tdformer.measure.firing import spiking
from tdformer.measure.potentials import potentials, slope
from tdformer.options import NeuronOptions
from tdformer.unit import Unit

CASES = [
    ("tiny_hst", {"feedback": "all"}),
    ("tiny_spikformer", {"feedback": "all", "mixer": "processing", "pm": 2, "v_reset": None, "detach_reset": False}),
    ("tiny_sdt", {"feedback": "last", "cm": 3, "neuron": "plif", "detach_reset": False, "surrogate": "arctan"}),
    ("tiny_spikformer", {"feedback": "first", "cm": 2, "pm": 3, "segments": 4}),
    ("tiny_sdt", {"segments": 1}),
]


def gradients(model: Any) -> list[torch.Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_it_is_the_same_network_with_the_same_gradients(tiny: Any, calibrate: Any, name: str, options: Any) -> None:
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    model = calibrate(tiny(name, **{"time_steps": 4, "segments": 2} | options), images)
    plain = model(images)
    plain.square().sum().backward()
    expected = gradients(model)
    model.zero_grad()
    spikes: dict[str, list[torch.Tensor]] = {}
    with potentials(model) as found:
        hooks = [
            module.register_forward_hook(lambda m, i, out, key=key: spikes.setdefault(key, []).append(out.detach()))
            for key, module in spiking(model).items()
        ]
        logits = model(images)
    for hook in hooks:
        hook.remove()
    assert torch.equal(logits, plain) and len(logits.unique(dim=0)) == 2
    logits.square().sum().backward()
    for mine, theirs in zip(gradients(model), expected, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs)
    for key, module in spiking(model).items():
        neuron = module.neuron if isinstance(module, Unit) else module
        steps = found[key]
        first = 1 if ".control." not in key else 4 // model.segments + 1
        assert list(steps) == list(range(first, 5))
        fired = torch.stack([h >= neuron.options.threshold for h in steps.values()])
        assert torch.equal(fired, torch.cat(spikes[key]).view_as(fired) > 0)
    assert torch.equal(model(images), plain)  # and nothing stays


def test_neurons_that_run_over_the_batch_have_none() -> None:
    with torch.device("meta"):
        model = create_model("hst_4_384", leaky_proj_lif=True)
    with pytest.raises(ModelError, match="neuron runs over time and batch together"), potentials(model):
        pass


def test_slopes_at_given_potentials() -> None:
    h = torch.tensor([-1.0, 0.2, 0.49, 0.51, 1.0, 1.49, 1.51])
    window = NeuronOptions(surrogate="rectangular", alpha=1.0)
    assert slope(h, window).tolist() == [0, 0, 0, 1, 1, 1, 0]
    sharp = torch.sigmoid(4 * (h - 0.5))
    torch.testing.assert_close(slope(h, NeuronOptions(threshold=0.5)), 4 * sharp * (1 - sharp))
