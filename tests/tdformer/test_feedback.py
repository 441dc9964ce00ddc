"""The top-down pathway's neurons are the model's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tdformer
from tdformer.feedback import Control, FeedbackOptions, Processing
from tdformer.neuron import lif
from tdformer.norm import fold
from tdformer.options import NeuronOptions
from tdformer.state import State, name_units
from tdformer.unit import UnitOptions


@pytest.mark.parametrize(("tau", "threshold", "fires"), [(2, 0.9, 1), (2, 1.1, 0), (1.5, 1.1, 1), (4, 0.9, 0)])
def test_feedback_fires_at_the_models_threshold(tau: float, threshold: float, fires: int) -> None:
    """A current of 2 for one step from rest is a potential of 2 / tau."""
    model = tdformer.create_model("quickstart", segments=2, feedback="all", pm=4, tau=tau, threshold=threshold)
    (processing,) = (module for module in model.modules() if isinstance(module, Processing))
    with torch.no_grad():
        processing.w.fill_(2.0)
        spikes = processing(torch.zeros(1, 2, len(processing.w), 3, 3), State(steps=1, keep=model.keep))
    assert torch.equal(spikes, torch.full_like(spikes, fires))


def written_out(high: Tensor, w: Tensor, matrix: Tensor, plif: bool, a: float) -> Tensor:
    """The processing module with its mixer: BatchNorm over the segment, without weight and bias, and Eqs 18-20."""
    y = F.conv2d(high.flatten(0, 1), matrix)
    y = F.batch_norm(y, None, None, training=True, eps=1e-5).unflatten(0, high.shape[:2])
    spikes, _ = lif(y, None, NeuronOptions())
    gate = (spikes * w.view(-1, 1, 1)).sum(2, keepdim=True).clamp(0.0, a)
    decay = torch.sigmoid(w).view(-1, 1, 1) if plif else None
    return lif(spikes * gate, None, NeuronOptions(threshold=0.5), decay)[0]


@pytest.mark.parametrize("pm", [1, 2, 3, 4])
@pytest.mark.parametrize("a", [1.0, 2.0])
def test_a_mixer_of_the_processing_module(pm: int, a: float) -> None:
    """Spikes and gradients as written out; V4 is V1 and V3 is V2."""
    torch.manual_seed(0)
    options = FeedbackOptions(pm=pm, mixer="processing", clamp=(0.0, a))
    control = Control(8, options, UnitOptions()).double()
    name_units(control)
    w, matrix = control.processing.w, control.processing.mix.current.conv.weight
    torch.nn.init.uniform_(w, 0.5, 1.5)
    assert sum(p.numel() for p in control.parameters()) == 8 * 8 + 8
    high, x = torch.randint(0, 3, (2, 3, 8, 5, 5)).double().requires_grad_(), torch.ones(2, 3, 8, 5, 5).double()
    (query, key, value), *more = control(x, high, State(segment=0))
    assert query is x and value is x and more == [None, None]
    expected = written_out(high, w, matrix, pm in (2, 3), a)
    assert 0.01 < expected.mean() < 0.9
    assert torch.equal(key, x + expected)
    along = torch.rand_like(expected)
    found = [torch.autograd.grad((y * along).sum(), (high, w, matrix)) for y in (key, expected)]
    for ours, theirs in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_it_is_folded_for_evaluation() -> None:
    torch.manual_seed(0)
    model = tdformer.create_model("quickstart", segments=2, feedback="all", mixer="processing", time_steps=2)
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        model(x)  # so that the statistics are not those of the start
        assert torch.equal(fold(model)(x), model.eval()(x))
