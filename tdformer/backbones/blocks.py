"""What the backbones share: the two-layer perceptron, the residual block, and pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .. import kernels
from ..packing import add
from ..recompute import selected
from ..state import State
from ..unit import Unit, UnitOptions
from .size import hidden


class MLP(nn.Module):
    """Two units of kernel 1, `[T, B, C, H, W]` -> the same shape; `ratio` times C hidden channels."""

    def __init__(self, options: UnitOptions, channels: int, ratio: float = 4) -> None:
        super().__init__()
        inner = hidden(channels, ratio)
        self.fc1 = Unit(options, channels, inner, bias=True)
        self.fc2 = Unit(options, inner, channels, bias=True)

    def forward(self, x: Tensor, state: State) -> Tensor:
        spikes: Tensor = self.fc2(self.fc1(x, state), state)
        return spikes


class Block(nn.Module):
    """x + attention(x), then x + mlp(x); no norm: sums of spikes stay small integers."""

    def __init__(self, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> Tensor:
        """x `[T, B, C, H, W]`, high H_(n-1) or None -> `[T, B, C, H, W]`."""
        x = add(x, self.attention(x, state, high))
        return add(x, self.mlp(x, state))


def pooled(spikes: Tensor, state: State) -> Tensor:
    """3 x 3 max pooling with stride 2 of spikes `[T, B, C, H, W]`: H and W become half, rounded up."""
    return selected(lambda x: F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2]), state, spikes)


def mean_of_pixels(x: Tensor) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, C]`."""
    if kernels.channels_last(x):
        return x.movedim(2, 4).mean((2, 3))  # whose gradient lies channels last, too
    return x.mean((3, 4))
