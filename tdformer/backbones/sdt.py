"""Spike-driven Transformer v1 (SDT): the residual sums are membrane currents, and a neuron opens each branch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm

from torch import Tensor, nn

from ..attention import SpikeDrivenAttention
from ..errors import ModelError
from ..neuron import AFTER_PRODUCT, Neuron
from ..packing import add, bounded
from ..state import State
from ..unit import Current, UnitOptions
from .base import MODELS, Backbone, Entry, Given, Published, Sizes, truncated
from .blocks import Block, mean_of_pixels, pooled
from .keys import NEVER, UNUSED, of_block, of_layer, of_stem
from .size import Size, check_width, hidden

_LATE, _ALL, _GESTURE = (False, False, True, True), (True, True, True, True), (False, True, True, True)
EVENTS = {10: ("CIFAR10-DVS", (_LATE, True)), 11: ("DVS128 Gesture", (_GESTURE, False))}
"""The published networks for events, by their number of classes: where the stem pools, and whether attention does."""
_UNUSED = {r"patch_embed\.rpe_lif\.w|block\.\d+\.attn\.attn_lif\.w": NEVER}


@dataclass(frozen=True)
class SDTSizes:
    """Sizes of one Spike-driven Transformer. pools: at which of the four stem convolutions H and W are halved;
    pooled_heads: see `SpikeDrivenAttention`."""

    width: int
    depth: int
    pools: tuple[bool, bool, bool, bool]
    truncated: bool = False
    """Convolutions start at N(0, 0.02), as the published ones do."""
    pooled_heads: int | None = None
    mlp_ratio: float = 4

    @property
    def size(self) -> Size:
        """Heads are none of it where attention does not pool: they make no difference."""
        return Size(self.width, (self.depth,), self.pooled_heads, self.mlp_ratio)

    def resized(self, size: Size) -> SDTSizes:
        """The stem's first convolution has an eighth of the width."""
        assert size.width and size.depths and size.mlp_ratio
        check_width(size, self.size, lambda heads: lcm(8, heads))
        return replace(self, width=size.width, depth=size.depths[0], pooled_heads=size.heads, mlp_ratio=size.mlp_ratio)


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
        return add(x, position)


class MLP(nn.Module):
    """Neuron, convolution, BatchNorm, twice; `[T, B, C, H, W]` -> the same shape; `ratio` times C hidden channels."""

    def __init__(self, options: UnitOptions, channels: int, ratio: float) -> None:
        super().__init__()
        inner = hidden(channels, ratio)
        self.neuron1, self.neuron2 = Neuron(options.neuron), Neuron(options.neuron)
        self.fc1 = Current(options, channels, inner, bias=True)
        self.fc2 = Current(options, inner, channels, bias=True)

    def forward(self, x: Tensor, state: State) -> Tensor:
        x = self.fc1(self.neuron1(x, state), state)
        current: Tensor = self.fc2(self.neuron2(x, state), state)
        return current


def _known(weights: Mapping[str, Tensor]) -> bool:
    return any(k.startswith("patch_embed.") for k in weights) and any(".talking_heads." in k for k in weights)


NEURONS = {"q": "q.neuron", "k": "k.neuron", "v": "v.neuron", "shortcut": "shortcut", "talking_heads": "mask"}
"""Our names for the published neurons of an attention."""


def _name(key: str) -> str | None:
    """Our name for a published one; None: there is none."""
    if key == "head_lif.w":
        return "backbone.head_neuron.w"
    if m := re.fullmatch(r"patch_embed\.proj_lif(\d?)\.w", key):
        return f"backbone.stem.neurons.{m[1] or 0}.w"
    return of_stem(key, "currents", "") or of_block(key, _of_branch)


def _of_branch(key: str) -> str | None:
    if m := re.fullmatch(r"mlp\.fc(\d)_lif\.w", key):
        return f"mlp.neuron{m[1]}.w"
    if m := re.fullmatch(rf"attn\.({'|'.join(NEURONS)})_lif\.w", key):
        return f"attention.{NEURONS[m[1]]}.w"
    return of_layer(key, "")


def _check(weights: Mapping[str, Tensor], sizes: Sizes) -> None:
    """The published networks for events have tensors of the same names and shapes, and pool in different places: what
    tells them apart is how many classes they have. Heads matter only where attention pools."""
    assert isinstance(sizes, SDTSizes)
    first, head = weights.get("patch_embed.proj_conv.weight"), weights.get("head.weight")
    if first is None or first.shape[1] != 2:
        return
    classes = None if head is None else len(head)
    made = {classes: EVENTS[classes]} if classes in EVENTS else EVENTS
    if (sizes.pools, sizes.pooled_heads is not None) not in [network for _, network in made.values()]:
        data = " or ".join(f"{name} ({n} classes)" for n, (name, _) in made.items())
        raise ModelError(
            f"these are weights of the network for {data}, which pools in other places than this model; choose its own"
        )
    heads = next((len(value) for key, value in weights.items() if key.endswith(".talking_heads.weight")), None)
    if sizes.pooled_heads not in (None, heads):
        raise ModelError(
            f"these are weights of {heads} heads and the model pools within {sizes.pooled_heads}; choose one of as many"
        )


class SDT(Backbone[SDTSizes]):
    """All blocks can be fed back. Their sums are real currents, so H_n is what a neuron without parameters fires."""

    published = Published("Spike-driven Transformer", _known, _name, UNUSED | _UNUSED, _check, ("backbone.high.w",))

    def __init__(self, sizes: SDTSizes, given: Given) -> None:
        super().__init__(sizes, given)
        options = given.units
        # A current of at most 1, as the binary H_n gives, never brings a leaky neuron to a threshold of 1.
        feedback = {i: replace(f, threshold=AFTER_PRODUCT) for i, f in given.feedback.items()}
        self.stem = Stem(options, given.in_channels, sizes.width, sizes.pools)
        self.blocks = nn.ModuleList(
            Block(
                SpikeDrivenAttention(options, sizes.width, feedback.get(i), sizes.pooled_heads),
                MLP(options, sizes.width, sizes.mlp_ratio),
            )
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
        features = self.head_neuron(bounded(mean_of_pixels(x), None), state)
        return features, self.high(x, state) if self.high is not None else x


def _cifar(width: int) -> Entry[SDTSizes]:
    return Entry(SDT, SDTSizes(width, 2, _LATE, truncated=True), 32, 3, 10)


def _imagenet(depth: int, width: int) -> Entry[SDTSizes]:
    return Entry(SDT, SDTSizes(width, depth, _ALL, truncated=True), 224, 3, 1000)


MODELS.register("sdt_2_256", _cifar(256))
MODELS.register("sdt_2_512", _cifar(512))
MODELS.register("sdt_2_256_gesture", Entry(SDT, SDTSizes(256, 2, _GESTURE, truncated=True), 128, 2, 11, 16))
MODELS.register("sdt_2_256_cifar10_dvs", Entry(SDT, SDTSizes(256, 2, _LATE, True, pooled_heads=8), 64, 2, 10, 16))
MODELS.register("sdt_8_384", _imagenet(8, 384))
MODELS.register("sdt_6_512", _imagenet(6, 512))
MODELS.register("sdt_8_512", _imagenet(8, 512))
MODELS.register("sdt_10_512", _imagenet(10, 512))
MODELS.register("sdt_8_768", _imagenet(8, 768))
