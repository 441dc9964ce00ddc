"""The top-down pathway's neurons are the model's."""

from __future__ import annotations

import pytest
import torch

import tdformer
from tdformer.feedback import Processing
from tdformer.state import State


@pytest.mark.parametrize(("tau", "threshold", "fires"), [(2, 0.9, 1), (2, 1.1, 0), (1.5, 1.1, 1), (4, 0.9, 0)])
def test_feedback_fires_at_the_models_threshold(tau: float, threshold: float, fires: int) -> None:
    """A current of 2 for one step from rest is a potential of 2 / tau."""
    model = tdformer.create_model("quickstart", segments=2, feedback="all", pm=4, tau=tau, threshold=threshold)
    (processing,) = (module for module in model.modules() if isinstance(module, Processing))
    with torch.no_grad():
        processing.w.fill_(2.0)
        spikes = processing(torch.zeros(1, 2, len(processing.w), 3, 3), State(steps=1, keep=model.keep))
    assert torch.equal(spikes, torch.full_like(spikes, fires))
