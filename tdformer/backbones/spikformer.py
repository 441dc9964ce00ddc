"""Spikformer: a stem of 3 x 3 units, then blocks of spiking self-attention on one grid."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..attention import SelfAttention
from ..feedback import FeedbackOptions
from ..packing import add
from ..state import State
from ..unit import Unit, UnitOptions
from .blocks import MLP, Backbone, Block, pooled


@dataclass(frozen=True)
class SpikformerSizes:
    """Sizes of one Spikformer. pools: after which of the four stem units H and W are halved."""

    width: int
    depth: int
    heads: int
    pools: tuple[bool, bool, bool, bool]
    scale: float = 0.125
    bias: bool = False
    """Biases in the query, key and value projections: the CIFAR version has them."""


class Stem(nn.Module):
    """Four units with pooling after the spikes, and a fifth as a relative position embedding on a shortcut."""

    def __init__(self, options: UnitOptions, in_channels: int, width: int, pools: tuple[bool, ...]) -> None:
        super().__init__()
        widths = (in_channels, width // 8, width // 4, width // 2, width)
        self.units = nn.ModuleList(Unit(options, widths[i], widths[i + 1], kernel=3) for i in range(4))
        self.position = Unit(options, width, width, kernel=3)
        self.pools = pools

    def forward(self, x: Tensor, state: State) -> Tensor:
        """x `[T, B, C_in, H, W]` -> `[T, B, C, h, w]`, sums of two spikes."""
        for unit, pool in zip(self.units, self.pools, strict=True):
            x = unit(x, state)
            x = pooled(x, state) if pool else x
        return add(x, self.position(x, state))


class Spikformer(Backbone):
    """All blocks have the width and the grid of H_n and can be fed back."""

    def __init__(
        self, options: UnitOptions, sizes: SpikformerSizes, in_channels: int, feedback: dict[int, FeedbackOptions]
    ) -> None:
        super().__init__()
        self.stem = Stem(options, in_channels, sizes.width, sizes.pools)
        self.blocks = nn.ModuleList(
            Block(
                SelfAttention(options, sizes.width, sizes.heads, sizes.scale, sizes.bias, feedback.get(i)),
                MLP(options, sizes.width),
            )
            for i in range(sizes.depth)
        )
        self.width = sizes.width

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        x = self.step(self.stem, state, x)
        for block in self.blocks:
            x = self.step(block, state, x, high)
        return x.mean((3, 4)), x
