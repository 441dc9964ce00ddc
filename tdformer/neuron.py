"""LIF and PLIF neurons as functions of (current, membrane) -> (spikes, membrane) (Eqs 1-3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from . import kernels
from .kernels import Drive
from .options import NeuronOptions
from .packing import bounded, keep_bits
from .precision import typed
from .recompute import Tensors, again
from .state import State, Stateful

AFTER_PRODUCT = 0.5
"""The threshold of the neuron right after an attention product, times the model's own."""


class _LIF(torch.autograd.Function):
    """The fused neuron without a BatchNorm before it; H is computed again in backward."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, membrane: Tensor | None, decay: Tensor, o: NeuronOptions, steps: int, *more: bool
    ) -> tuple[Tensor | None, ...]:
        """more: the other arguments of `kernels.fire`."""
        ctx.options, ctx.steps = o, steps
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(current, membrane, decay)
        fired = kernels.fire(Drive(current, None, membrane, decay, o), steps, *more)
        if fired.bits is not None:
            ctx.mark_non_differentiable(fired.bits)
        return tuple(fired)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        current, membrane, decay = ctx.saved_tensors
        grad_spikes, grad_membrane, _ = grads
        if grad_spikes is None:  # only the potential is used
            grad_spikes = current.new_zeros(ctx.steps, *current.shape[1:])
        got = kernels.fire_backward(Drive(current, None, membrane, decay, ctx.options), grad_spikes, grad_membrane)
        assert got.current is not None
        return got.current.to(current.dtype), got.membrane, got.decay, None, None, None, None


def decay_of(
    o: NeuronOptions,
    channels: int,
    like: Tensor,
    decay: Tensor | None = None,
    made: dict[tuple[object, ...], Tensor] | None = None,
) -> Tensor:
    """1 / tau of each channel `[C]`, from the options or from one learned value or one a channel. made: those of
    options that there are, to which another one is added."""
    if decay is None:
        key, made = (o.tau, channels, kernels.real(like)), {} if made is None else made
        if key not in made:
            made[key] = torch.full((channels,), 1 / o.tau, dtype=kernels.real(like), device=like.device)
        return made[key]
    return typed(decay.flatten().expand(channels), kernels.real(like))


def lif(
    current: Tensor,
    membrane: Tensor | None,
    options: NeuronOptions,
    decay: Tensor | None = None,
    steps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Leaky integrate-and-fire over the time steps of one segment (Eqs 1-3).

    current `[T, ...]`, or `[1, ...]` and `steps` for one that is the same at each step; membrane `[...]`, the potential
    left by the steps before, or None at the start (V_reset). decay: 1 / tau for PLIF, one value or `[C, 1, ...]` that
    broadcasts over `[...]`; None takes `options.tau`.
    Returns spikes `[T, ...]` in current's type and the last potential `[...]` in fp32 (fp64 for fp64 input).
    """
    spikes, v = _fired(current, membrane, options, decay, steps or len(current))
    assert v is not None
    return spikes, v


def _fired(
    current: Tensor,
    membrane: Tensor | None,
    options: NeuronOptions,
    decay: Tensor | None,
    steps: int,
    bits: bool = False,
    last: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `lif`. bits: the spikes are wanted packed, too; last: the last potential is not."""
    if decay is not None and decay.numel() > 1:
        after = decay.dim() - 1  # dimensions behind the channels
    else:
        after = max(0, current.dim() - 3)
    channel = current.dim() - 1 - after
    shape = current.shape
    grouped = (
        math.prod(shape[1:channel]),
        shape[channel] if channel else 1,
        math.prod(shape[channel + 1 :]) if channel else math.prod(shape[1:]),
        1,
    )
    spikes, v, packed = _LIF.apply(  # type: ignore[no-untyped-call]
        current.reshape(shape[0], *grouped),
        None if membrane is None else membrane.reshape(grouped),
        decay_of(options, grouped[1], current, decay),
        options,
        steps,
        bits and (current.dim(), channel) == (5, 2),
        last,
    )
    return keep_bits(spikes.view(-1, *shape[1:]), packed), None if v is None else v.view(shape[1:])


class Neuron(Stateful):
    """A layer of LIF neurons, or of PLIF neurons that learn one tau: 1 / tau = sigmoid(w).

    across_batch: run over time and batch as one sequence, the published QKFormer's defect that its weights need
    (`leaky_proj_lif`): each image then meets the potential its batch-mates left.
    """

    def __init__(self, options: NeuronOptions, threshold: float | None = None, across_batch: bool = False) -> None:
        super().__init__()
        self.options = options if threshold is None else replace(options, threshold=threshold * options.threshold)
        self.across_batch = across_batch
        self.w = nn.Parameter(torch.tensor(-math.log(options.tau - 1))) if options.learned else None

    def decay(self) -> Tensor | None:
        """The learned 1 / tau, None where tau is fixed."""
        return None if self.w is None else torch.sigmoid(self.w)

    def forward(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        state: State,
        call: Callable[..., Tensor] | None = None,
        weights: tuple[Tensor, ...] = (),
        decay: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """inputs, the current or what `call` makes it of, each `[T, B, ...]` -> spikes `[T, B, ...]`; the potential
        goes on in `state`. Where only packed inputs are kept, backward computes `call(*inputs, *weights)` again.

        decay: 1 / tau as a function of `weights`; else the neuron's own.
        """
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        own, steps, last = self.w if decay is None else None, state.steps, state.last
        learned = weights if own is None else (own, *weights)
        packed = state.keep.packed and torch.is_grad_enabled()
        plif = own is not None  # the function below outlives the tensors, so it must not hold them

        def fire(membrane: Tensor | None, inputs: Tensors, weights: Tensors) -> tuple[Tensor, Tensor | None]:
            others = weights[1:] if plif else weights
            rate = torch.sigmoid(weights[0]) if plif else None if decay is None else decay(*others)
            current = inputs[0] if call is None else call(*inputs, *others)
            if not self.across_batch:
                bits = packed and not torch.is_grad_enabled()  # not in backward, which computes this again
                return _fired(current, membrane, self.options, rate, steps or len(current), bits, last)
            spikes, v = lif(current.flatten(0, 1), membrane, self.options, rate)
            return spikes.unflatten(0, current.shape[:2]), v

        return bounded(again(fire, state, self.key, tensors, learned), 1)

    def drive(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        state: State,
        call: Callable[..., Tensor] | None = None,
        weights: tuple[Tensor, ...] = (),
        decay: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The current that drives it, of the arguments of `forward`; `[T, B, ...]`."""
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        return tensors[0] if call is None else call(*tensors, *weights)
