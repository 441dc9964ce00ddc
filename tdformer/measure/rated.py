"""Energy by Eqs 109-110 beside a forward pass, in training too: what `energy.conventional` says of counted operations,
from the dense operations of each layer and the mean of what comes in, without counting events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..kernels import attention
from ..norm import is_recomputing
from ..unit import Current, Unit
from .energy import AC, MAC
from .operations import LARGEST

_aten = torch.ops.aten
_PRODUCTS = {_aten.bmm: 0, _aten.mm: 0, _aten.addmm: 1}
"""The operators that multiply two matrices, and the place of the first one."""


class Seen(NamedTuple):
    """What came into a layer, S time steps of it. low, high: `[S]`; parts: the sum of what is behind the point."""

    dense: int
    size: int
    low: Tensor
    high: Tensor
    parts: Tensor
    values: Tensor


class Rated:
    """images: that went through the model."""

    def __init__(self) -> None:
        self.images = 0
        self.layers: list[Seen] = []
        self.products: Tensor | float = 0.0
        """pJ of those of two activations, and of what is in no layer."""

    @property
    def pj(self) -> Tensor | float:
        """What all images cost together, on their device. Layers are priced here, all at once: on a small model an
        operator's start takes longer than the operator."""
        found = self.products
        for steps in dict.fromkeys(len(seen.low) for seen in self.layers):
            dense, size, *tensors = zip(*(seen for seen in self.layers if len(seen.low) == steps), strict=True)
            low, high, parts, values = (torch.stack([x.double() for x in own]) for own in tensors)
            counts = _beside(values, [dense, size])
            real = ~((low.amin(1) >= 0) & (high.amax(1) < LARGEST) & (parts == 0))
            steps_with = ((low != 0) | (high != 0)).double().mean(1)  # a step at which a picture is black costs nothing
            rate = values / counts[1]
            found = found + (counts[0] * torch.where(real, MAC * steps_with, AC * rate)).sum()
        return found


@contextmanager
def measure_rated(model: nn.Module) -> Iterator[Rated]:
    """While the block runs, add up what the forward passes of `model` cost; recomputation is none. No number is waited
    for."""
    watch = _Watch()
    hooks = [model.register_forward_pre_hook(watch.begin), model.register_forward_hook(watch.end)]
    of_units = {unit.current for unit in model.modules() if isinstance(unit, Unit)}
    for layer in model.modules():
        if isinstance(layer, Unit | Current) and layer not in of_units:
            hooks += [layer.register_forward_pre_hook(watch.enter), layer.register_forward_hook(watch.leave)]
    try:
        yield watch.rated
    finally:
        watch.pause()
        for hook in hooks:
            hook.remove()


class _Watch(TorchDispatchMode):
    """Layers are counted from what enters them, and meanwhile no operator is looked at; between them products are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rated = Rated()
        self.on = False

    def resume(self) -> None:
        self.on = True
        self.__enter__()  # type: ignore[no-untyped-call]

    def pause(self) -> None:
        if self.on:
            self.on = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def begin(self, model: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rated.images += args[0].shape[-4]
        self.resume()

    def end(self, model: nn.Module, args: object, output: object) -> None:
        self.pause()

    def enter(self, layer: nn.Module, args: object) -> None:
        if not is_recomputing():
            self.pause()

    def leave(self, layer: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """args: x `[S, B, C, H, W]`, the state, and of a unit perhaps another input and its convolution."""
        if is_recomputing():
            return
        x, _, *more = args
        current = layer.current if isinstance(layer, Unit) else layer
        assert isinstance(current, Current)
        self.layer(x, current.conv)
        if more and more[0] is not None:
            self.layer(more[0], more[1])
        self.resume()

    @torch.no_grad()
    def layer(self, x: Tensor, conv: nn.Conv2d) -> None:
        height, width = (-(-n // conv.stride[0]) for n in x.shape[-2:])
        dense = len(x) * x.shape[1] * conv.weight.numel() * height * width
        flat, parts = x.flatten(1), x.frac().sum(dtype=torch.float32)
        values = x.sum((3, 4), dtype=torch.float32).sum(dtype=torch.float64)  # exact, of integers; and the faster sum
        self.rated.layers.append(Seen(dense, x.numel(), flat.amin(1), flat.amax(1), parts, values))

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        packet, result = func._overloadpacket, func(*args, **(kwargs or {}))
        if packet in _PRODUCTS:
            a, b = args[_PRODUCTS[packet] :][:2]
            self.product(a.numel() * b.shape[-1], a, b)
        elif packet is torch.ops.tdformer.product:
            for a, b in attention.factors(*args[:4]):
                self.product(a.numel() * b.shape[-1], a, b)
        elif packet is _aten.convolution:
            self.product(result.numel() * args[1][0].numel(), *args[:2])
        return result

    def product(self, dense: int, *factors: Tensor) -> None:
        """Of two activations, or of one and weights, which are real."""
        real = torch.stack([is_real(x) for x in factors])
        sums = torch.stack([x.sum(dtype=torch.float64) for x in factors])
        sizes = _beside(sums, [x.numel() for x in factors])
        rate = (sums * ~real).sum() / (sizes * ~real).sum().clamp(min=1)
        self.rated.products = self.rated.products + dense * torch.where(real.all(), MAC, AC * rate)


def _beside(x: Tensor, numbers: Sequence[object]) -> Tensor:
    """Numbers of the host, in x's type and on its device, which is not waited for."""
    return torch.tensor(numbers, dtype=x.dtype, pin_memory=x.is_cuda).to(x.device, non_blocking=True)


def is_real(x: Tensor) -> Tensor:
    """Whether a tensor's numbers are other than spikes and their sums, as `kind_of` tells them."""
    return ~((x.amin() >= 0) & (x.amax() < LARGEST) & (x.frac().sum(dtype=torch.float32) == 0))
