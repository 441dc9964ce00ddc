"""The one building block: convolution -> BatchNorm (-> max pool) -> neuron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .neuron import Neuron, NeuronOptions
from .norm import BatchNorm
from .state import State


@dataclass(frozen=True)
class UnitOptions:
    """What all units of a model share: their neurons, and for how many segments BatchNorm keeps statistics."""

    neuron: NeuronOptions = NeuronOptions()
    norm_segments: int = 1


def max_pool(x: Tensor) -> Tensor:
    """3 x 3 max pooling with stride 2 on `[T, B, C, H, W]` or `[M, C, H, W]`: H and W become half, rounded up."""
    if x.dim() == 4:
        return F.max_pool2d(x, 3, 2, 1)
    return F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])


class Current(nn.Module):
    """Convolution -> BatchNorm (-> max pool): the input current of a neuron. A kernel of 1 is a linear layer."""

    def __init__(
        self,
        options: UnitOptions,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        bias: bool = False,
        pool: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.norm = BatchNorm(out_channels, options.norm_segments)
        self.pool = pool

    def forward(self, x: Tensor, state: State, extra: Tensor | None = None) -> Tensor:
        """x `[T, B, C, H, W]` -> `[T, B, C', H', W']`; extra, of the convolution's output shape, is added to it.

        T identical images (a view that repeats one) are computed once: their current is the same at each step.
        """
        steps = x.shape[0]
        if steps > 1 and x.stride(0) == 0 and extra is None:
            x = x[:1]
        y = self.conv(x.flatten(0, 1))
        if extra is not None:
            y = y + extra.flatten(0, 1)
        y = self.norm(y, state.segment)
        y = max_pool(y) if self.pool else y
        return y.unflatten(0, x.shape[:2]).expand(steps, *[-1] * 4)


class Unit(nn.Module):
    """A `Current` and the neuron that it drives. across_batch: see `Neuron`; layer: kernel, stride, bias and pool."""

    def __init__(
        self, options: UnitOptions, in_channels: int, out_channels: int, across_batch: bool = False, **layer: Any
    ) -> None:
        super().__init__()
        self.current = Current(options, in_channels, out_channels, **layer)
        self.neuron = Neuron(options.neuron, across_batch=across_batch)

    def forward(self, x: Tensor, state: State, extra: Tensor | None = None) -> Tensor:
        """x `[T, B, C, H, W]` -> spikes `[T, B, C', H', W']`."""
        return self.neuron(self.current(x, state, extra), state)
