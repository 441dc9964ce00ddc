"""Spikformer: a stem of 3 x 3 units, then blocks of spiking self-attention on one grid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm

from torch import Tensor, nn

from ..attention import SelfAttention
from ..packing import add
from ..state import State
from ..unit import Unit, UnitOptions
from .base import MODELS, Backbone, Entry, Given, Published, truncated
from .blocks import MLP, Block, mean_of_pixels, pooled
from .keys import UNUSED, of_block, of_branch, of_stem
from .size import Size, check_width


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
    truncated: bool = False
    """1 x 1 convolutions start at N(0, 0.02), as in the CIFAR version."""
    mlp_ratio: float = 4

    @property
    def size(self) -> Size:
        return Size(self.width, (self.depth,), self.heads, self.mlp_ratio)

    def resized(self, size: Size) -> SpikformerSizes:
        """The stem's first unit has an eighth of the width."""
        assert size.width and size.depths and size.heads and size.mlp_ratio
        check_width(size, self.size, lambda heads: lcm(8, heads))
        return replace(self, width=size.width, depth=size.depths[0], heads=size.heads, mlp_ratio=size.mlp_ratio)


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


def _known(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("patch_embed.") for key in weights) and not any(".talking_heads." in k for k in weights)


def _name(key: str) -> str | None:
    """Our name for a published one; None: there is none."""
    if m := re.fullmatch(r"patch_embed\.(proj|rpe)_lif(\d?)\.w", key):
        return f"backbone.stem.{'position' if m[1] == 'rpe' else f'units.{m[2] or 0}'}.neuron.w"
    return of_stem(key, "units", ".current") or of_block(key, of_branch)


class Spikformer(Backbone[SpikformerSizes]):
    """All blocks have the width and the grid of H_n and can be fed back."""

    published = Published("Spikformer", _known, _name, UNUSED)

    def __init__(self, sizes: SpikformerSizes, given: Given) -> None:
        super().__init__(sizes, given)
        options = given.units
        self.stem = Stem(options, given.in_channels, sizes.width, sizes.pools)
        self.blocks = nn.ModuleList(
            Block(
                SelfAttention(options, sizes.width, sizes.heads, sizes.scale, sizes.bias, given.feedback.get(i)),
                MLP(options, sizes.width, sizes.mlp_ratio),
            )
            for i in range(sizes.depth)
        )
        self.width = sizes.width

    def parts(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]

    def initialise(self) -> None:
        if self.sizes.truncated:
            truncated(m for m in self.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        x = self.step(self.stem, state, x)
        for block in self.blocks:
            x = self.step(block, state, x, high)
        return mean_of_pixels(x), x


_LATE, _ALL = (False, False, True, True), (True,) * 4


def _cifar(depth: int) -> Entry[SpikformerSizes]:
    return Entry(Spikformer, SpikformerSizes(384, depth, 12, _LATE, bias=True, truncated=True), 32, 3, 10)


def _imagenet(width: int) -> Entry[SpikformerSizes]:
    return Entry(Spikformer, SpikformerSizes(width, 8, 8, _ALL), 224, 3, 1000)


MODELS.register("spikformer_2_384", _cifar(depth=2))
MODELS.register("spikformer_4_384", _cifar(depth=4))
MODELS.register("spikformer_2_256", Entry(Spikformer, SpikformerSizes(256, 2, 16, _ALL, scale=0.25), 128, 2, 10, 16))
MODELS.register("spikformer_8_512", _imagenet(512))
MODELS.register("spikformer_8_768", _imagenet(768))
