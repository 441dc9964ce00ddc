"""The top-down pathway TDAC: the processing module makes a feedback signal of the high-level spikes, the control
module mixes it into the attention of the next segment (Eqs 10-20).

A fed-back block has C^2 + C parameters of its own: one C x C mixer and one vector of C. Two readings of where the mixer
is fit the paper's tables: the second half of a 2C -> C projection of the concatenation [S_bu, S_td], in the control
module, or a linear layer that opens the processing module, whose feedback is then added to S_bu. What the vector is in
each variant is our reading of Fig. 2(e).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ModelError
from .neuron import AFTER_PRODUCT, Neuron
from .packing import add
from .state import State
from .unit import Unit, UnitOptions


@dataclass(frozen=True)
class FeedbackOptions:
    """cm 1-3, pm 1-4, clamp bounds (b, a) of Eq 19; threshold of the neuron right behind H_n in the processing module,
    times the model's own. mixer: where the C x C matrix is, "concat": in the control module, with a concatenation,
    "processing": in the processing module, and feedback is added, "add": nowhere, and feedback is added."""

    cm: int = 1
    pm: int = 1
    mixer: str = "concat"
    clamp: tuple[float, float] = (0.0, 1.0)
    threshold: float = 1.0

    @property
    def core(self) -> bool:
        """Whether feedback has the M of Eqs 18-19, which `clamp` bounds."""
        return self.mixer == "processing" or self.pm in (1, 2)

    def __post_init__(self) -> None:
        if self.cm not in (1, 2, 3):
            raise ModelError(f"cm is {self.cm!r}; choose 1 (key), 2 (value) or 3 (attention input)")
        if self.pm not in (1, 2, 3, 4):
            raise ModelError(f"pm is {self.pm!r}; choose 1, 2, 3 or 4")
        if self.mixer not in ("concat", "processing", "add"):
            raise ModelError(f"mixer is {self.mixer!r}; choose concat, processing or add")
        if self.clamp[0] >= self.clamp[1]:
            raise ModelError(f"clamp is {list(self.clamp)}; it is [b, a] with b < a, for example [0, 1]")


class Processing(nn.Module):
    """Processing module, variants V1-V4: high-level spikes in, feedback spikes out.

    | variant | core (Eqs 18-19) | neuron | the vector w of C |
    | V1 | M = clamp(sum_c w_c X, b, a) | LIF | channel weights of the core |
    | V2 | the same | PLIF | channel weights, and 1 / tau_c = sigmoid(w_c) |
    | V3 | none | PLIF | 1 / tau_c = sigmoid(w_c) |
    | V4 | none | LIF | bias of the current |

    The linear layer (V1, V4) or 1 x 1 convolution (V2, V3) that the variants also have is the mixer of `Control`. With
    the mixer "processing" it opens this module, SN(BN(W H_n)), its BatchNorm without weight and bias, and all variants
    have the core: as the two layers are one operation here, V4 is V1 and V3 is V2.
    """

    def __init__(self, channels: int, options: FeedbackOptions, units: UnitOptions) -> None:
        super().__init__()
        own = options.mixer == "processing"
        self.core, self.plif = options.core, options.pm in (2, 3)
        self.biased = not self.core and not self.plif
        self.low, self.high = options.clamp
        self.mix = Unit(units, channels, channels, affine=False) if own else None
        # M starts near 1 where a share of the channels fires: a quarter, or behind a BatchNorm the paper's 0.05.
        share = 0.05 if own else 0.25
        self.w = nn.Parameter(torch.full((channels,), 1 / (share * channels) if self.core else 0.0))
        # Spikes times an M of at most 1 never bring a leaky neuron to a threshold of 1.
        self.neuron = Neuron(units.neuron, AFTER_PRODUCT if own else options.threshold)

    def forward(self, high: Tensor, state: State) -> Tensor:
        """high H_n `[T, B, C, H, W]` -> S_td, the same shape: O = SN(X . M), M broadcast over channels (Eq 20)."""
        decay = _decay if self.plif else None
        x = high if self.mix is None else self.mix(high, state)
        spikes: Tensor = self.neuron(x, state, self.current, (self.w,), decay)
        return spikes

    def current(self, x: Tensor, w: Tensor) -> Tensor:
        """What drives the neuron, from the high-level spikes, mixed or not, and the vector."""
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
    segment, which has no feedback, skips it. In CM3 the input stays a sum of spikes: x + SN(W S_td). Without a mixer
    of the control module's, what CM1, CM2 and CM3 put the feedback into is S_bu + S_td.
    """

    def __init__(self, channels: int, options: FeedbackOptions, units: UnitOptions) -> None:
        super().__init__()
        self.cm = options.cm
        self.processing = Processing(channels, options, units)
        self.mix = nn.Conv2d(channels, channels, 1, bias=False) if options.mixer == "concat" else None
        self.input = Neuron(units.neuron) if options.cm == 3 and self.mix is not None else None

    def gate(self) -> Tensor | None:
        """The parameter that is zero where feedback adds nothing and yet has a gradient: the mixer, or, behind a mixer
        of its own, the vector of the processing module's core. None: there is none."""
        if self.mix is not None:
            return self.mix.weight
        return self.processing.w if self.processing.mix is not None else None

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
