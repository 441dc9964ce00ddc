"""The neuron and its hand-written backward against autograd through a step-by-step float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tdformer import ModelError
from tdformer.neuron import Neuron, NeuronOptions, lif
from tdformer.state import State

SMOOTH = {
    "sigmoid": lambda u, a: torch.sigmoid(a * u),
    "arctan": lambda u, a: torch.atan(math.pi / 2 * a * u) / math.pi + 0.5,
    "rectangular": lambda u, a: (a * u + 0.5).clamp(0, 1),
}


def reference(x: Tensor, v: Tensor | None, decay: Tensor, o: NeuronOptions) -> tuple[Tensor, Tensor]:
    """Eqs 1-3, one operation a line; the step function takes the slope of a smooth one by subtracting its value."""
    rest = 0.0 if o.v_reset is None else o.v_reset
    v = torch.full_like(x[0], rest) if v is None else v
    out = []
    for t in range(len(x)):
        h = v + (x[t] - (v - rest)) * decay
        smooth = SMOOTH[o.surrogate](h - o.threshold, o.alpha)
        s = (h - o.threshold >= 0).to(h.dtype) + (smooth - smooth.detach())
        r = s.detach() if o.detach_reset else s
        v = h - o.threshold * r if o.v_reset is None else h * (1 - r) + o.v_reset * r
        out.append(s)
    return torch.stack(out), v


@pytest.mark.parametrize("surrogate", SMOOTH)
@pytest.mark.parametrize("v_reset", [0.0, -0.3, None])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("learned", ["no", "one", "per channel"])
def test_forward_and_gradients(
    surrogate: str, v_reset: float | None, detach: bool, carried: bool, learned: str
) -> None:
    o = NeuronOptions(
        "lif", tau=1.7, threshold=0.8, v_reset=v_reset, surrogate=surrogate, alpha=1.3, detach_reset=detach
    )
    x = (torch.randn(5, 2, 3, 4, dtype=torch.float64) * 2).requires_grad_()
    v = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_() if carried else None
    shape = {"no": (), "one": (), "per channel": (3, 1)}[learned]
    decay = torch.full(shape, 1 / o.tau, dtype=torch.float64)
    decay = (decay * (1 + 0.1 * torch.rand(shape, dtype=torch.float64))) if learned == "per channel" else decay
    decay.requires_grad_(learned != "no")
    inputs = [i for i in (x, v, decay) if i is not None and i.requires_grad]
    expected, expected_v = reference(x, v, decay, o)
    spikes, last = lif(x, v, o, decay if decay.requires_grad else None)
    assert torch.equal(spikes, expected.detach())
    assert 0.1 < spikes.mean() < 0.9
    torch.testing.assert_close(last, expected_v, rtol=0, atol=1e-12)
    a, b = torch.randn_like(spikes), torch.randn_like(last)
    grads = torch.autograd.grad((spikes * a).sum() + (last * b).sum(), inputs)
    wanted = torch.autograd.grad((expected * a).sum() + (expected_v * b).sum(), inputs)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
        assert got.abs().max() > 0


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_when_only_the_spikes_or_only_the_potential_are_used(detach: bool) -> None:
    o = NeuronOptions(detach_reset=detach)
    for which in (0, 1):
        x = torch.randn(3, 4, dtype=torch.float64).requires_grad_()
        (got,) = torch.autograd.grad(lif(x, None, o)[which].sum(), x)
        (want,) = torch.autograd.grad(reference(x, None, torch.tensor(0.5, dtype=x.dtype), o)[which].sum(), x)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_steps_one_at_a_time_are_the_steps_at_once() -> None:
    x, o = torch.randn(6, 3, 4, dtype=torch.float64), NeuronOptions()
    whole, last = lif(x, None, o)
    v, parts = None, []
    for chunk in x.split([1, 3, 2]):
        part, v = lif(chunk, v, o)
        parts.append(part)
    assert torch.equal(torch.cat(parts), whole)
    assert v is not None and torch.equal(v, last)


def test_spikes_take_the_type_of_the_current_and_the_potential_stays_fp32() -> None:
    spikes, v = lif(torch.randn(2, 3).bfloat16(), None, NeuronOptions())
    assert (spikes.dtype, v.dtype) == (torch.bfloat16, torch.float32)


def test_plif_learns_its_time_constant() -> None:
    neuron = Neuron(NeuronOptions("plif", tau=2.0)).double()
    neuron.key = "n"
    x = torch.randn(4, 2, 3, dtype=torch.float64) * 2
    state = State()
    spikes = neuron(x, state)
    assert torch.equal(spikes, lif(x, None, NeuronOptions(tau=2.0))[0])
    assert set(state.membrane) == {"n"}
    spikes.sum().backward()
    assert neuron.w is not None and neuron.w.grad is not None and neuron.w.grad.abs() > 0


def test_across_batch_is_one_sequence_of_images() -> None:
    o = NeuronOptions()
    neuron = Neuron(o, across_batch=True)
    x = torch.randn(3, 2, 4, dtype=torch.float64) * 2
    assert torch.equal(neuron(x, State()).flatten(0, 1), lif(x.flatten(0, 1), None, o)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "relu"}, "neuron is 'relu'"),
        ({"surrogate": "tanh"}, "surrogate is 'tanh'"),
        ({"tau": 0.5}, "tau is 0.5"),
        ({"alpha": 0.0}, "alpha is 0.0"),
    ],
)
def test_options_that_cannot_work(options: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        NeuronOptions(**options)


def test_plif_cannot_start_at_tau_1() -> None:
    """sigmoid(w) = 1 has no finite w."""
    with pytest.raises(ModelError, match="tau"):
        Neuron(NeuronOptions("plif", tau=1.0))
