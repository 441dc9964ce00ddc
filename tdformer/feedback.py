"""The top-down pathway TDAC: the processing module makes a feedback signal of the high-level spikes, the control
module mixes it into the attention of the next segment (Eqs 10-20).

A fed-back block has C^2 + C parameters of its own: one C x C mixer, the second half of a 2C -> C projection of the
concatenation [S_bu, S_td], and one vector of C. What the vector is in each variant is our reading of Fig. 2(e).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ModelError
from .neuron import Neuron
from .options import NeuronOptions
from .packing import add
from .state import State


@dataclass(frozen=True)
class FeedbackOptions:
    """cm 1-3, pm 1-4, mixer "concat" or "add", clamp bounds (b, a) of Eq 19; threshold of the processing module's
    neuron, times the model's own."""

    cm: int = 1
    pm: int = 1
    mixer: str = "concat"
    clamp: tuple[float, float] = (0.0, 1.0)
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.cm not in (1, 2, 3):
            raise ModelError(f"cm is {self.cm!r}; choose 1 (key), 2 (value) or 3 (attention input)")
        if self.pm not in (1, 2, 3, 4):
            raise ModelError(f"pm is {self.pm!r}; choose 1, 2, 3 or 4")
        if self.mixer not in ("concat", "add"):
            raise ModelError(f"mixer is {self.mixer!r}; choose concat or add")
        if self.clamp[0] >= self.clamp[1]:
            raise ModelError(f"clamp is {list(self.clamp)}; it is [b, a] with b < a, for example [0, 1]")


class Processing(nn.Module):
    """Processing module, variants V1-V4: high-level spikes in, feedback spikes out.

    | variant | core (Eqs 18-19) | neuron | the vector w of C |
    | V1 | M = clamp(sum_c w_c X, b, a) | LIF | channel weights of the core |
    | V2 | the same | PLIF | channel weights, and 1 / tau_c = sigmoid(w_c) |
    | V3 | none | PLIF | 1 / tau_c = sigmoid(w_c) |
    | V4 | none | LIF | bias of the current |

    The linear layer (V1, V4) or 1 x 1 convolution (V2, V3) that the variants also have is the mixer of `Control`.
    """

    def __init__(self, channels: int, options: FeedbackOptions, neuron: NeuronOptions) -> None:
        super().__init__()
        self.core, self.plif, self.biased = options.pm in (1, 2), options.pm in (2, 3), options.pm == 4
        self.low, self.high = options.clamp
        # With a core, M starts at (sum of spikes over channels) / (C / 4): near 1 where a quarter of them fires.
        self.w = nn.Parameter(torch.full((channels,), 4.0 / channels if self.core else 0.0))
        self.neuron = Neuron(neuron, options.threshold)

    def forward(self, high: Tensor, state: State) -> Tensor:
        """high H_n `[T, B, C, H, W]` -> S_td, the same shape: O = SN(X . M), M broadcast over channels (Eq 20)."""
        decay = _decay if self.plif else None
        spikes: Tensor = self.neuron(high, state, self.current, (self.w,), decay)
        return spikes

    def current(self, x: Tensor, w: Tensor) -> Tensor:
        """What drives the neuron, from the high-level spikes and the vector."""
        if self.core:
            x = x.view_as(x)  # its two gradients meet here, before those of other blocks: in this order with any policy
            x = x * attention_map(x, w, self.low, self.high)
        if self.biased:
            x = x + w.to(x.dtype).view(-1, 1, 1)
        return x


def _decay(w: Tensor) -> Tensor:
    return torch.sigmoid(w.view(-1, 1, 1))


def attention_map(x: Tensor, w: Tensor, low: float, high: float) -> Tensor:
    """M = clamp(sum_c w_c X(t, n, c), b, a) (Eqs 18-19): x `[T, B, C, H, W]`, w `[C]` -> `[T, B, 1, H, W]`."""
    return torch.einsum("tbchw,c->tbhw", x, w.to(x.dtype)).clamp(low, high).unsqueeze(2)


class Control(nn.Module):
    """Control module of one fed-back block, with the block's own processing module.

    CM1 puts the feedback into K (Eqs 15-17), CM2 into V, CM3 into the attention's input. Concatenation followed by
    a projection 2C -> C is the sum of two projections, so the second half is a matrix of its own here and the first
    segment, which has no feedback, skips it. In CM3 the input stays a sum of spikes: x + SN(W S_td).
    """

    def __init__(self, channels: int, options: FeedbackOptions, neuron: NeuronOptions) -> None:
        super().__init__()
        self.cm = options.cm
        self.processing = Processing(channels, options, neuron)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False) if options.mixer == "concat" else None
        self.input = Neuron(neuron) if options.cm == 3 and self.mix is not None else None

    def forward(
        self, x: Tensor, high: Tensor, state: State
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None, Tensor | None]:
        """x S_bu, high H_(n-1), both `[T, B, C, H, W]` -> the inputs of Q, K, V, and for K and V the feedback whose
        product with `mix` is added to their currents before BatchNorm (None: nothing)."""
        feedback = self.processing(high, state)
        if self.mix is None:
            mixed = add(x, feedback)
            return {1: (x, mixed, x), 2: (x, x, mixed), 3: (mixed, mixed, mixed)}[self.cm], None, None
        if self.input is not None:
            x = add(x, self.input(feedback, state, _project, (self.mix.weight,)))
        key, value = (feedback if self.cm == which else None for which in (1, 2))
        return (x, x, x), key, value


def _project(x: Tensor, weight: Tensor) -> Tensor:
    current: Tensor = F.conv2d(x.flatten(0, 1), weight).unflatten(0, x.shape[:2])
    return current
