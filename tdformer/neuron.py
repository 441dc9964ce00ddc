"""LIF and PLIF neurons as functions of (current, membrane) -> (spikes, membrane) (Eqs 1-3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ModelError
from .state import State, Stateful
from .surrogate import SURROGATES


@dataclass(frozen=True)
class NeuronOptions:
    """tau in time steps; `v_reset=None` is the soft reset (V = H - V_th S); the defaults are the backbones'."""

    kind: str = "lif"
    tau: float = 2.0
    threshold: float = 1.0
    v_reset: float | None = 0.0
    surrogate: str = "sigmoid"
    alpha: float = 4.0
    detach_reset: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("lif", "plif"):
            raise ModelError(f"neuron is {self.kind!r}; choose lif or plif")
        if self.surrogate not in SURROGATES:
            raise ModelError(f"surrogate is {self.surrogate!r}; choose one of {', '.join(SURROGATES)}")
        if not self.tau >= 1:
            raise ModelError(f"tau is {self.tau}; the membrane time constant is at least 1 time step")
        if self.kind == "plif" and self.tau == 1:
            raise ModelError("tau is 1, where a plif neuron cannot start; choose a tau above 1")
        if not self.alpha > 0:
            raise ModelError(f"alpha is {self.alpha}; the surrogate's slope must be above 0")


class _LIF(torch.autograd.Function):
    """The neuron with its backward written by hand: only H is kept, spikes and V are derived from it again."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, membrane: Tensor | None, decay: Tensor | float, o: NeuronOptions
    ) -> tuple[Tensor, Tensor]:
        real = torch.float64 if current.dtype == torch.float64 else torch.float32
        h = torch.empty(current.shape, dtype=real, device=current.device)
        spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
        rest = o.v_reset or 0.0
        v = membrane
        for t in range(current.shape[0]):
            x = current[t].to(real)
            if v is None and not rest:
                torch.mul(x, decay, out=h[t])  # V starts at 0: one pass instead of two
            else:
                v = torch.full_like(h[t], rest) if v is None else v
                torch.sub(x, v - rest if rest else v, out=h[t])
                h[t].mul_(decay).add_(v)
            fired = h[t] >= o.threshold
            spikes[t] = fired
            v = _reset(h[t], fired, o)
        assert v is not None
        ctx.options = o
        ctx.decay = None if isinstance(decay, Tensor) else decay
        ctx.save_for_backward(h, membrane, decay if isinstance(decay, Tensor) else None)
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        grad_spikes, grad_v = grads
        o: NeuronOptions = ctx.options
        h, membrane, decay = ctx.saved_tensors
        learned = decay is not None
        decay = decay if learned else ctx.decay
        slope = SURROGATES[o.surrogate](h - o.threshold, o.alpha)
        assert grad_spikes is not None
        grad_current = torch.empty_like(h)
        grad_decay = torch.zeros_like(decay) if learned else None
        for t in reversed(range(h.shape[0])):
            grad_h = torch.mul(grad_spikes[t], slope[t], out=grad_current[t])
            if grad_v is not None:
                grad_h += grad_v * _reset_slope(h[t], slope[t], o)
            if grad_decay is not None:
                before = membrane if t == 0 else _reset(h[t - 1], h[t - 1] >= o.threshold, o)
                if before is None:
                    before = torch.full_like(h[t], o.v_reset or 0.0)
                grad_decay += (grad_h * (h[t] - before) / decay).sum_to_size(decay.shape)
            grad_v = grad_h * (1 - decay) if t or membrane is not None else None
            grad_h *= decay
        return grad_current.to(grad_spikes.dtype), grad_v, grad_decay, None


def _reset(h: Tensor, fired: Tensor, o: NeuronOptions) -> Tensor:
    """Eq 3: V after the spike, from H before it."""
    if o.v_reset is None:
        return h - fired.to(h.dtype) * o.threshold
    return h.masked_fill(fired, o.v_reset)


def _reset_slope(h: Tensor, slope: Tensor, o: NeuronOptions) -> Tensor:
    """dV / dH of Eq 3, with or without the path through the spike."""
    if o.v_reset is None:
        return torch.ones_like(h) if o.detach_reset else 1 - o.threshold * slope
    kept = (h < o.threshold).to(h.dtype)
    return kept if o.detach_reset else kept + (o.v_reset - h) * slope


def lif(
    current: Tensor, membrane: Tensor | None, options: NeuronOptions, decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Leaky integrate-and-fire over the time steps of one segment (Eqs 1-3).

    current `[T, ...]`; membrane `[...]`, the potential left by the steps before, or None at the start (V_reset).
    decay: 1 / tau as a tensor that broadcasts over `[...]`, for PLIF; None takes `options.tau`.
    Returns spikes `[T, ...]` in current's type and the last potential `[...]` in fp32 (fp64 for fp64 input).
    """
    return _LIF.apply(current, membrane, 1.0 / options.tau if decay is None else decay, options)


class Neuron(Stateful):
    """A layer of LIF neurons, or of PLIF neurons that learn one tau: 1 / tau = sigmoid(w).

    across_batch: run over time and batch as one sequence, the published QKFormer's defect that its weights need
    (`leaky_proj_lif`): each image then meets the potential its batch-mates left.
    """

    def __init__(self, options: NeuronOptions, threshold: float | None = None, across_batch: bool = False) -> None:
        super().__init__()
        self.options = options if threshold is None else replace(options, threshold=threshold * options.threshold)
        self.across_batch = across_batch
        self.w = nn.Parameter(torch.tensor(-math.log(options.tau - 1))) if options.kind == "plif" else None

    def forward(self, current: Tensor, state: State, decay: Tensor | None = None) -> Tensor:
        """current `[T, B, ...]` -> spikes `[T, B, ...]`; the potential goes on in `state`."""
        if decay is None and self.w is not None:
            decay = torch.sigmoid(self.w)
        x = current.flatten(0, 1).unsqueeze(1) if self.across_batch else current
        spikes, state.membrane[self.key] = lif(x, state.membrane.get(self.key), self.options, decay)
        return spikes.view(current.shape) if self.across_batch else spikes
