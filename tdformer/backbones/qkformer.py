"""QKFormer, the hierarchical spiking transformer (HST): token attention in the early stages, SSA in the last."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..attention import QKAttention, SelfAttention
from ..feedback import FeedbackOptions
from ..packing import add
from ..state import State
from ..unit import Unit, UnitOptions
from .blocks import MLP, Backbone, Block


@dataclass(frozen=True)
class QKFormerSizes:
    """Sizes of one QKFormer. widths and depths of the stages; `mlp_ratio` times a stage's width is hidden."""

    stem: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: int
    mlp_ratio: float = 4


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


def stem_chain(kind: str, width: int) -> tuple[tuple[tuple[int, bool], ...], int]:
    """The first embedding: its chain, and the unit after which the shortcut starts.

    ImageNet: H / 4. CIFAR: no pooling. DVS: H / 8.
    """
    stems: dict[str, tuple[tuple[tuple[int, bool], ...], int]] = {
        "imagenet": (((width // 2, True), (width, True), (width, False)), 1),
        "cifar": (((width // 2, False), (width, False)), 1),
        "dvs": (((width // 8, False), (width // 4, True), (width // 2, True), (width, True)), 2),
    }
    return stems[kind]


class QKFormer(Backbone):
    """The hierarchy; the blocks of the last stage have the width and the grid of H_n and can be fed back."""

    def __init__(
        self,
        options: UnitOptions,
        sizes: QKFormerSizes,
        in_channels: int,
        feedback: dict[int, FeedbackOptions],
        leaky_proj_lif: bool = False,
    ) -> None:
        super().__init__()
        last = len(sizes.widths) - 1
        pool_first = sizes.stem == "imagenet"
        self.embeds, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
            if i == 0:
                embed = Embed(options, in_channels, *stem_chain(sizes.stem, width))
            else:
                embed = Embed(options, sizes.widths[i - 1], ((width, pool_first), (width, not pool_first)))
            self.embeds.append(embed)
            stage = nn.ModuleList()
            for j in range(depth):
                attention: nn.Module = (
                    QKAttention(options, width, sizes.heads)
                    if i < last
                    else SelfAttention(
                        options, width, sizes.heads, feedback=feedback.get(j), leaky_proj_lif=leaky_proj_lif
                    )
                )
                stage.append(Block(attention, MLP(options, width, sizes.mlp_ratio)))
            self.stages.append(stage)
        self.width = sizes.widths[-1]

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        for i, (embed, stage) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x = self.step(embed, state, x)
            for block in stage:  # type: ignore[attr-defined]
                x = self.step(block, state, x, high if i == len(self.stages) - 1 else None)
        return x.mean((3, 4)), x
