"""The potentials H[t] that neurons compare with their threshold, which the fused kernels show to nobody.

Beside each neuron Eqs 1-3 run once more in plain PyTorch, a step at a time. What goes on through the network are the
spikes and potentials of the kernels, to the bit, with the gradients of these steps: those of H[t] are there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import ModelError
from ..neuron import Neuron
from ..options import NeuronOptions
from ..packing import bounded
from ..state import State
from ..surrogate import SURROGATES
from ..unit import Unit
from .firing import spiking

Potentials = dict[str, dict[int, Tensor]]
"""Of each neuron by its key H[t] `[B, ...]` by the time step, from 1: those in which it ran."""


@contextmanager
def potentials(model: nn.Module) -> Iterator[Potentials]:
    """While the block runs one forward pass, collect the potentials of all neurons. With gradients on they are nodes of
    the graph. Nothing may be recomputed: a TDFormer's policy is `none` (`set_recompute`).

    Raises ModelError for neurons that run over time and batch together (`leaky_proj_lif`), which have no H[t].
    """
    found: Potentials = {}
    hooks: list[RemovableHandle] = []
    for key, module in spiking(model).items():
        neuron = module.neuron if isinstance(module, Unit) else module
        assert isinstance(neuron, Neuron)
        if neuron.across_batch:
            raise ModelError(f"{key} runs over time and batch together (leaky_proj_lif); it has no potential at a step")
        beside = _Beside(neuron, found.setdefault(key, {}))
        hooks.append(module.register_forward_pre_hook(beside.before))
        hooks.append(module.register_forward_hook(beside.after))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


class _Beside:
    """What runs beside one neuron, in a unit or alone."""

    def __init__(self, neuron: Neuron, found: dict[int, Tensor]) -> None:
        self.neuron, self.found = neuron, found
        self.membrane: Tensor | None = None

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.membrane = inputs[1].membrane.get(self.neuron.key)

    def after(self, module: nn.Module, inputs: tuple[Any, ...], spikes: Tensor) -> Tensor:
        state: State = inputs[1]
        assert isinstance(module, Unit | Neuron)
        current = module.drive(*inputs)
        learned = _rate(self.neuron, *inputs[2:]) if module is self.neuron else self.neuron.decay()
        o, v, fired = self.neuron.options, self.membrane, spikes.detach()
        x = current.to(torch.float64 if current.dtype == torch.float64 else torch.float32)
        rate = 1 / o.tau if learned is None else learned.to(x.dtype)
        outputs = []
        for t, given in enumerate(fired):
            h, s, v = _step(x[t if len(x) > 1 else 0], v, rate, given, o)
            self.found[state.segment * len(fired) + t + 1] = h
            outputs.append(s)
        if (carried := state.membrane.get(self.neuron.key)) is not None:
            assert v is not None
            state.membrane[self.neuron.key] = _Shown.apply(v, carried.detach())  # type: ignore[no-untyped-call]
        return bounded(torch.stack(outputs).to(spikes.dtype), 1)


def _step(
    x: Tensor, v: Tensor | None, rate: Tensor | float, spikes: Tensor, o: NeuronOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Eqs 1-3: H, S and V of one step, from its current and V before; spikes: what S is."""
    rest = o.v_reset or 0.0
    v = torch.full_like(x, rest) if v is None else v
    h = v + (x - (v - rest)) * rate
    s: Tensor = _Spike.apply(h, spikes.to(h.dtype), o)  # type: ignore[no-untyped-call]
    fired = s.detach() if o.detach_reset else s
    return h, s, h - o.threshold * fired if o.v_reset is None else h * (1 - fired) + o.v_reset * fired


class _Spike(torch.autograd.Function):
    """The spikes that there were; backward: the surrogate's slope at H - V_th."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, spikes: Tensor, o: NeuronOptions) -> Tensor:
        ctx.options = o
        ctx.save_for_backward(h)
        return spikes.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (h,) = ctx.saved_tensors
        return grad * slope(h, ctx.options), None, None


def slope(h: Tensor, o: NeuronOptions) -> Tensor:
    """dS / dH, the surrogate gradient at these potentials, of the same shape."""
    return SURROGATES[o.surrogate](h - o.threshold, o.alpha)


class _Shown(torch.autograd.Function):
    """The numbers of one tensor with the gradient of another, which differs from it in last bits."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _rate(
    neuron: Neuron, call: object = None, weights: tuple[Tensor, ...] = (), decay: Callable[..., Tensor] | None = None
) -> Tensor | None:
    """1 / tau as `Neuron.forward` takes it; None: that of its options."""
    return neuron.decay() if decay is None else decay(*weights)
