"""Spike-driven Transformer v1 (SDT): the residual sums are membrane currents, and a neuron opens each branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..attention import SpikeDrivenAttention
from ..errors import ModelError
from ..neuron import AFTER_PRODUCT, Neuron
from ..state import State
from ..unit import Current, UnitOptions
from .base import MODELS, Backbone, Entry, Given, Published, truncated
from .blocks import Block, pooled
from .keys import UNUSED, of_block, of_stem


@dataclass(frozen=True)
class SDTSizes:
    """Sizes of one Spike-driven Transformer. pools: at which of the four stem convolutions H and W are halved."""

    width: int
    depth: int
    pools: tuple[bool, bool, bool, bool]
    truncated: bool = False
    """Convolutions start at N(0, 0.02), as the published ones do."""


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
        position: Tensor = self.position(self.neurons[3](x, state), state)
        return x + position


class MLP(nn.Module):
    """Neuron, convolution, BatchNorm, twice; `[T, B, C, H, W]` -> the same shape."""

    def __init__(self, options: UnitOptions, channels: int) -> None:
        super().__init__()
        self.neuron1, self.neuron2 = Neuron(options.neuron), Neuron(options.neuron)
        self.fc1 = Current(options, channels, 4 * channels, bias=True)
        self.fc2 = Current(options, 4 * channels, channels, bias=True)

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = self.fc1(self.neuron1(x, state), state)
        current: Tensor = self.fc2(self.neuron2(x, state), state)
        return current


def _known(weights: Mapping[str, Tensor]) -> bool:
    return any(k.startswith("patch_embed.") for k in weights) and any(".talking_heads." in k for k in weights)


def _name(key: str) -> str | None:
    """Our name for a published one; None: there is none."""
    return of_stem(key, "currents", "") or of_block(key, "")


def _check(weights: Mapping[str, Tensor]) -> None:
    first = weights.get("patch_embed.proj_conv.weight")
    if first is not None and first.shape[1] == 2:
        raise ModelError(
            "these are weights of a Spike-driven Transformer for event frames, whose attention and stem pool "
            "otherwise: it is not built here, and any other model would compute something else with them"
        )


class SDT(Backbone[SDTSizes]):
    """All blocks can be fed back. Their sums are real currents, so H_n is what a neuron without parameters fires."""

    published = Published("Spike-driven Transformer", _known, _name, UNUSED, _check)

    def __init__(self, sizes: SDTSizes, given: Given) -> None:
        super().__init__(sizes, given)
        options = given.units
        # A current of at most 1, as the binary H_n gives, never brings a leaky neuron to a threshold of 1.
        feedback = {i: replace(f, threshold=AFTER_PRODUCT) for i, f in given.feedback.items()}
        self.stem = Stem(options, given.in_channels, sizes.width, sizes.pools)
        self.blocks = nn.ModuleList(
            Block(SpikeDrivenAttention(options, sizes.width, feedback.get(i)), MLP(options, sizes.width))
            for i in range(sizes.depth)
        )
        self.head_neuron = Neuron(options.neuron)
        self.high = Neuron(options.neuron) if feedback else None
        self.width = sizes.width

    def parts(self) -> list[nn.Module]:
        return [self.stem, *self.blocks]

    def initialise(self) -> None:
        if self.sizes.truncated:
            truncated(module for module in self.modules() if isinstance(module, nn.Conv2d))

    def forward(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor]:
        """x `[T, B, C_in, H, W]`, high `[T, B, C, h, w]` or None -> features `[T, B, C]`, H_n `[T, B, C, h, w]`."""
        x = self.step(self.stem, state, x)
        for block in self.blocks:
            x = self.step(block, state, x, high)
        features = self.head_neuron(x.mean((3, 4)), state)
        return features, self.high(x, state) if self.high is not None else x


_LATE, _ALL = (False, False, True, True), (True,) * 4
MODELS.register("sdt_2_256", Entry(SDT, SDTSizes(256, 2, _LATE, truncated=True), 32, 3, 10))
MODELS.register("sdt_2_512", Entry(SDT, SDTSizes(512, 2, _LATE, truncated=True), 32, 3, 10))
MODELS.register("sdt_8_768", Entry(SDT, SDTSizes(768, 8, _ALL, truncated=True), 224, 3, 1000))
