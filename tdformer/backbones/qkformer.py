"""QKFormer, the hierarchical spiking transformer (HST): token attention in the early stages, SSA in the last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from torch import Tensor, nn

from ..attention import QKAttention, SelfAttention
from ..packing import add
from ..state import State
from ..unit import Unit, UnitOptions
from .base import MODELS, Backbone, Entry, Given, Published
from .blocks import MLP, Block, mean_of_pixels
from .keys import LAYERS, UNUSED, of_branch
from .size import Size, check_width


@dataclass(frozen=True)
class QKFormerSizes:
    """Sizes of one QKFormer. widths and depths of the stages; `mlp_ratio` times a stage's width is hidden."""

    stem: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: int
    mlp_ratio: float = 4

    @property
    def depth(self) -> int:
        return self.depths[-1]

    @property
    def size(self) -> Size:
        return Size(self.widths[-1], self.depths, self.heads, self.mlp_ratio)

    def resized(self, size: Size) -> QKFormerSizes:
        """Each stage keeps its share of the last one's width, such as 1/4, 1/2 and 1."""
        assert size.width and size.depths and size.heads and size.mlp_ratio
        shares = [Fraction(width, self.widths[-1]) for width in self.widths]

        def multiple(heads: int) -> int:
            """Of which the width is one where every stage's is whole and divides by heads, the first one's by its
            stem's narrowest unit."""
            parts = [lcm(heads, STEMS[self.stem].chain[0][0]), *[heads] * (len(shares) - 1)]
            return lcm(*((part / share).numerator for part, share in zip(parts, shares, strict=True)))

        check_width(size, self.size, multiple)
        widths = tuple(int(share * size.width) for share in shares)
        return replace(self, widths=widths, depths=size.depths, heads=size.heads, mlp_ratio=size.mlp_ratio)


class Embed(nn.Module):
    """A chain of 3 x 3 units, and beside it a 1 x 1 shortcut that starts after `fork` of them; the sum of the two.

    chain: (output channels, pooled) of each unit. Pooled units halve H and W, rounded up.
    """

    def __init__(
        self, options: UnitOptions, in_channels: int, chain: tuple[tuple[int, bool], ...], fork: int = 0
    ) -> None:
        super().__init__()
        widths = [in_channels] + [width for width, _ in chain]
        self.units = nn.ModuleList(
            Unit(options, widths[i], width, kernel=3, pool=pool) for i, (width, pool) in enumerate(chain)
        )
        stride = 2 ** sum(pool for _, pool in chain[fork:])
        self.shortcut = Unit(options, widths[fork], widths[-1], stride=stride)
        self.fork = fork

    def forward(self, x: Tensor, state: State) -> Tensor:
        """x `[T, B, C, H, W]` -> `[T, B, C', H', W']`, sums of two spikes."""
        for unit in self.units[: self.fork]:
            x = unit(x, state)
        fork = x
        for unit in self.units[self.fork :]:
            x = unit(x, state)
        return add(x, self.shortcut(fork, state))


class Stem(NamedTuple):
    """The first embedding. chain: of each unit, which part of the width it has (2: half), and whether it is pooled;
    fork: the unit after which the shortcut starts."""

    chain: tuple[tuple[int, bool], ...]
    fork: int


STEMS = {
    "imagenet": Stem(((2, True), (1, True), (1, False)), 1),  # H / 4
    "cifar": Stem(((2, False), (1, False)), 1),
    "dvs": Stem(((8, False), (4, True), (2, True), (1, True)), 2),  # H / 8
}


def _known(weights: Mapping[str, Tensor]) -> bool:
    return any(key.startswith("patch_embed1.") for key in weights)


def _name(key: str) -> str | None:
    """Our name for a published one; None: there is none. The embeddings' end in "proj3_conv.weight"."""
    if m := re.fullmatch(r"patch_embed(\d)\.proj(_res|\d?)_(conv|bn|lif)\.(\w+)", key):
        stage, unit = int(m[1]) - 1, m[2] or "0"
        if unit == "_res":
            part = "shortcut"
        else:  # in the later stages the two units are called 3 (none, for events) and 4
            part = f"units.{unit if stage == 0 else {'0': 0, '3': 0, '4': 1}.get(unit, unit)}"
        layer = "neuron" if m[3] == "lif" else f"current.{LAYERS[m[3]]}"
        return f"backbone.embeds.{stage}.{part}.{layer}.{m[4]}"
    if m := re.fullmatch(r"stage(\d)\.(\d+)\.(.*)", key):
        inside = of_branch(m[3])
        return None if inside is None else f"backbone.stages.{int(m[1]) - 1}.{m[2]}.{inside}"
    return None


class QKFormer(Backbone[QKFormerSizes]):
    """The hierarchy; the blocks of the last stage have the width and the grid of H_n and can be fed back.

    leaky_proj_lif: the published stage-3 neuron, which runs over time and batch together; for its weights.
    """

    options = {"leaky_proj_lif": False}
    published = Published("QKFormer", _known, _name, UNUSED)

    def __init__(self, sizes: QKFormerSizes, given: Given) -> None:
        super().__init__(sizes, given)
        options, last = given.units, len(sizes.widths) - 1
        pool_first = sizes.stem == "imagenet"
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            if i == 0:
                stem = STEMS[sizes.stem]
                chain = tuple((width // part, pooled) for part, pooled in stem.chain)
                embed = Embed(options, given.in_channels, chain, stem.fork)
            else:
                embed = Embed(options, sizes.widths[i - 1], ((width, pool_first), (width, not pool_first)))
            self.embeds.append(embed)
            stage = nn.ModuleList()
            for j in range(depth):
                attention: nn.Module = (
                    QKAttention(options, width, sizes.heads)
                    if i < last
                    else SelfAttention(
                        options,
                        width,
                        sizes.heads,
                        feedback=given.feedback.get(j),
                        leaky_proj_lif=bool(given.own["leaky_proj_lif"]),
                    )
                )
                stage.append(Block(attention, MLP(options, width, sizes.mlp_ratio)))
            self.stages.append(stage)
        self.width = sizes.widths[-1]

    def parts(self) -> list[nn.Module]:
        return [part for embed, stage in self._stages() for part in (embed, *stage)]

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        for i, (embed, stage) in enumerate(self._stages()):
            x = self.step(embed, state, x)
            for block in stage:
                x = self.step(block, state, x, high if i == len(self.stages) - 1 else None)
        return mean_of_pixels(x), x

    def _stages(self) -> list[tuple[nn.Module, list[nn.Module]]]:
        """Each stage's embedding and blocks."""
        return [(embed, list(stage.children())) for embed, stage in zip(self.embeds, self.stages, strict=True)]


def _hst(width: int, heads: int) -> Entry[QKFormerSizes]:
    return Entry(QKFormer, QKFormerSizes("imagenet", (width // 4, width // 2, width), (1, 2, 7), heads), 224, 3, 1000)


def _dvs(mlp_ratio: float, classes: int) -> Entry[QKFormerSizes]:
    return Entry(QKFormer, QKFormerSizes("dvs", (128, 256), (1, 1), 16, mlp_ratio), 128, 2, classes, 16)


MODELS.register("hst_2_256", _dvs(mlp_ratio=1, classes=10))  # as published for CIFAR10-DVS
MODELS.register("hst_2_256_gesture", _dvs(mlp_ratio=4, classes=11))  # and for DVS128 Gesture
MODELS.register("hst_4_384", Entry(QKFormer, QKFormerSizes("cifar", (96, 192, 384), (1, 1, 2), 8), 32, 3, 10))
MODELS.register("hst_10_384", _hst(384, 6))
MODELS.register("hst_10_512", _hst(512, 8))
MODELS.register("hst_10_768", _hst(768, 12))
MODELS.register("quickstart", Entry(QKFormer, QKFormerSizes("imagenet", (24, 48, 96), (1, 1, 1), 4), 28, 1, 10))
