"""What the backbones share: the two-layer perceptron, the residual block, and running a part under a policy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..packing import add
from ..recompute import recomputed, selected
from ..state import State
from ..unit import Unit, UnitOptions


class MLP(nn.Module):
    """Two units of kernel 1, `[T, B, C, H, W]` -> the same shape; `ratio` times C hidden channels."""

    def __init__(self, options: UnitOptions, channels: int, ratio: float = 4) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1 = Unit(options, channels, hidden, bias=True)
        self.fc2 = Unit(options, hidden, channels, bias=True)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return self.fc2(self.fc1(x, state), state)


class Block(nn.Module):
    """x + attention(x), then x + mlp(x); no norm: sums of spikes stay small integers."""

    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> Tensor:
        """x `[T, B, C, H, W]`, high H_(n-1) or None -> `[T, B, C, H, W]`."""
        x = add(x, self.attention(x, state, high))
        return add(x, self.mlp(x, state))


class Backbone(nn.Module):
    """A chain of parts: stems `(x, state)`, and blocks `(x, high, state)`, run under a recompute policy."""

    recompute: str = "none"
    width: int
    """Channels of the last block, C of H_n."""

    def step(self, part: nn.Module, state: State, *inputs: Tensor | None) -> Tensor:
        """One part, kept or recomputed as the policy says."""
        if self.recompute == "block":
            return recomputed(part, part, state, *inputs)
        return part(*inputs, state)

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high H_(n-1) or None -> the head's features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        raise NotImplementedError


def pooled(spikes: Tensor, state: State) -> Tensor:
    """3 x 3 max pooling with stride 2 of spikes `[T, B, C, H, W]`: H and W become half, rounded up."""
    return selected(lambda x: F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2]), state, spikes)
