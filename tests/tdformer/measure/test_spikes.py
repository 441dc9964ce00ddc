"""Which neurons fired: of the last block or of another unit, once each forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tdformer import ModelError
from tdformer.measure import measure_firing, mutual_information, record_outputs, spikes_of
from tdformer.measure.spikes import fired


@pytest.mark.parametrize("name", ["tiny_spikformer", "tiny_hst", "tiny_sdt"])
def test_of_a_network_the_last_blocks_spikes_are_taken(tiny, calibrate, name: str) -> None:
    """With feedback they are what is fed back; without it, of currents, what the same neuron would fire."""
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    for options in ({"segments": 2, "feedback": "all"}, {"segments": 2}):
        model = calibrate(tiny(name, **options), x)
        seen: list[Tensor] = []
        hook = model.backbone.register_forward_hook(lambda m, i, out, seen=seen: seen.append(out[1]))
        spikes = spikes_of(model, x)
        hook.remove()
        assert spikes.dtype == torch.bool and spikes.shape[:2] == (4, 6) and 0 < spikes.float().mean() < 1
        high = torch.cat(seen)
        if name == "tiny_sdt" and "feedback" not in options:
            fresh = tiny(name, segments=2, feedback="all")
            fresh.load_state_dict(model.state_dict(), strict=False)
            assert high.min() < 0 and not torch.equal(spikes, high > 0)
        else:
            assert torch.equal(spikes, high > 0)
    mutual_information(spikes, np.random.Generator(np.random.Philox(0)), 1)


def test_another_unit_and_recomputation(tiny, calibrate) -> None:
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    model = calibrate(tiny("tiny_spikformer", segments=2, feedback="all"), x)
    unit = "backbone.blocks.1.mlp.fc2.neuron"
    with measure_firing(model) as firing:
        spikes = spikes_of(model, x, unit)
    assert float(spikes.float().mean()) == pytest.approx(firing[unit].rate)
    model.train().set_recompute("time")
    with record_outputs(model, unit, lambda out: out[:, :2]) as outputs:
        model(x).sum().backward()
    assert len(outputs) == 2 and fired(model, outputs).shape[:2] == (4, 2)
    with pytest.raises(ModelError, match="'nowhere' is no unit of tiny_spikformer; one is backbone.stem"):
        spikes_of(model, x, "nowhere")
    fed = "backbone.blocks.0.attention.control.processing.neuron"
    with pytest.raises(ModelError, match=f"{fed} runs at 2 of 4 time steps, since the first segment has no feedback"):
        spikes_of(model, x, fed)
