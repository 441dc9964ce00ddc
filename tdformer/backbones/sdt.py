"""Spike-driven Transformer v1 (SDT): the residual sums are membrane currents, and a neuron opens each branch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..attention import AFTER_PRODUCT, SpikeDrivenAttention
from ..feedback import FeedbackOptions
from ..neuron import Neuron
from ..state import State
from ..unit import Current, UnitOptions
from .blocks import Backbone, Block, pooled


@dataclass(frozen=True)
class SDTSizes:
    """Sizes of one Spike-driven Transformer. pools: at which of the four stem convolutions H and W are halved."""

    width: int
    depth: int
    pools: tuple[bool, bool, bool, bool]


class Stem(nn.Module):
    """Four convolutions with neurons between them, and a fifth on a membrane shortcut."""

    def __init__(self, options: UnitOptions, in_channels: int, width: int, pools: tuple[bool, ...]) -> None:
        super().__init__()
        widths = (in_channels, width // 8, width // 4, width // 2, width)
        self.currents = nn.ModuleList(
            Current(options, widths[i], widths[i + 1], kernel=3, pool=i == 3 and pools[3]) for i in range(4)
        )
        self.neurons = nn.ModuleList(Neuron(options.neuron) for _ in range(4))
        self.position = Current(options, width, width, kernel=3)
        self.pools = pools

    def forward(self, x: Tensor, state: State) -> Tensor:
        """x `[T, B, C_in, H, W]` -> a current `[T, B, C, h, w]`."""
        for i in range(3):
            x = self.neurons[i](self.currents[i](x, state), state)
            x = pooled(x, state) if self.pools[i] else x
        x = self.currents[3](x, state)  # pooled before the neuron: the shortcut is a current
        return x + self.position(self.neurons[3](x, state), state)


class MLP(nn.Module):
    """Neuron, convolution, BatchNorm, twice; `[T, B, C, H, W]` -> the same shape."""

    def __init__(self, options: UnitOptions, channels: int) -> None:
        super().__init__()
        self.neuron1, self.neuron2 = Neuron(options.neuron), Neuron(options.neuron)
        self.fc1 = Current(options, channels, 4 * channels, bias=True)
        self.fc2 = Current(options, 4 * channels, channels, bias=True)

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = self.fc1(self.neuron1(x, state), state)
        return self.fc2(self.neuron2(x, state), state)


class SDT(Backbone):
    """All blocks can be fed back. Their sums are real currents, so H_n is what a neuron without parameters fires."""

    def __init__(
        self, options: UnitOptions, sizes: SDTSizes, in_channels: int, feedback: dict[int, FeedbackOptions]
    ) -> None:
        super().__init__()
        # A current of at most 1, as the binary H_n gives, never brings a leaky neuron to a threshold of 1.
        feedback = {i: replace(f, threshold=AFTER_PRODUCT) for i, f in feedback.items()}
        self.stem = Stem(options, in_channels, sizes.width, sizes.pools)
        self.blocks = nn.ModuleList(
            Block(SpikeDrivenAttention(options, sizes.width, feedback.get(i)), MLP(options, sizes.width))
            for i in range(sizes.depth)
        )
        self.head_neuron = Neuron(options.neuron)
        self.high = Neuron(options.neuron) if feedback else None
        self.width = sizes.width

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        x = self.step(self.stem, state, x)
        for block in self.blocks:
            x = self.step(block, state, x, high)
        features = self.head_neuron(x.mean((3, 4)), state)
        return features, self.high(x, state) if self.high is not None else x
