"""dH[t+k] / dH[t] in whole networks: what Theorem 4.3 and the default neuron's equations say, and feedback's part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tdformer.measure.potentials import potentials
from tdformer.measure.sensitivity import sensitivity

THEOREM = {"v_reset": None, "surrogate": "rectangular", "alpha": 1.0, "detach_reset": False}


@pytest.mark.parametrize("name", ["tiny_spikformer", "tiny_sdt"])
@pytest.mark.parametrize("neuron", [THEOREM, {}])
def test_without_feedback_it_is_the_neurons_own(tiny: Any, calibrate: Any, name: str, neuron: dict[str, Any]) -> None:
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    model = calibrate(tiny(name, time_steps=3, segments=1, **neuron), images)
    with torch.no_grad(), potentials(model) as found:
        model(images)
    rows = {(one.unit, one.source, one.target): one.values for one in sensitivity(model, images)}
    assert rows.keys() == {(unit, a, b) for unit in found for a, b in ((1, 2), (1, 3), (2, 3))}
    tested = 0
    for unit, h in found.items():
        threshold = model.get_submodule(unit).options.threshold
        if threshold != 1.0:  # alpha = 1 / V_th is of those with 1
            continue
        own = {}
        for t in (1, 2):
            gone = (h[t] > 0.5) & (h[t] < 1.5) if neuron else h[t] >= 1.0
            own[t] = torch.where(gone, 0.0, 0.5).double()
            tested += int(gone.any()) + int((~gone).any())
        torch.testing.assert_close(rows[unit, 1, 2], own[1])
        torch.testing.assert_close(rows[unit, 2, 3], own[2])
        torch.testing.assert_close(rows[unit, 1, 3], own[1] * own[2])
    assert tested > 20


def test_feedback_reaches_what_has_no_effect_on_itself(tiny: Any, calibrate: Any) -> None:
    """What fired at step 1 has no effect on itself (a hard, detached reset). In the second segment it has one on its
    unit where feedback reaches that; before the fed-back block all is as it was."""
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    model = calibrate(tiny("tiny_spikformer", time_steps=4, segments=2, feedback="all"), images)
    model.set_recompute("block")
    with torch.no_grad(), potentials(model) as found:
        model(images)
    rows = {(one.unit, one.source, one.target): one.values for one in sensitivity(model, images)}
    assert model.recompute == "block" and all(p.grad is None for p in model.parameters())
    fired = found["backbone.stem.position.neuron"][1] >= 1.0
    assert fired.any() and not rows["backbone.stem.position.neuron", 1, 3][fired].any()
    unit = "backbone.blocks.1.mlp.fc2.neuron"  # whose spikes are of H_n
    fired = found[unit][1] >= 1.0
    assert not rows[unit, 1, 2][fired].any()  # in its own segment
    assert (rows[unit, 1, 3][fired] > 0).float().mean() > 0.5
