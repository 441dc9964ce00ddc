"""How much a network would compute if no spike were zero, by kind, from the shapes of its layers on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tdformer
from tdformer.attention import SelfAttention
from tdformer.feedback import Control, Processing
from tdformer.neuron import Neuron
from tdformer.unit import Current, Unit


@dataclass
class Counts:
    """Of one image, over all time steps; the picture's convolution is counted at each of them, as published networks do
    it. Products are multiply-adds."""

    products: float = 0
    """Of convolutions and linear layers, without the first one."""
    first: float = 0
    """Of the convolution that is fed with the picture."""
    linear: float = 0
    """Of attention, as Q (K^T V): N C d twice, d channels a head."""
    quadratic: float = 0
    """The same as (Q K^T) V: N N C twice."""
    core: float = 0
    """Of the processing module's core: a sum over channels, and a product with each of them (Eqs 18 and 20)."""
    bias: float = 0
    """Outputs of convolutions that have one."""
    bias_columns: float = 0
    """The same, of 1 x 1 ones at one token."""
    norm: float = 0
    """Values that a BatchNorm sees."""
    neurons: float = 0
    """Values that a neuron sees."""
    pooled: float = 0
    """Values that a max pooling sees."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, by: float) -> Counts:
        return Counts(*(by * value for value in astuple(self)))

    def __sub__(self, other: Counts) -> Counts:
        return self + other * -1


def count(name: str, **options: Any) -> tuple[Counts, dict[str, Counts]]:
    """Of the model `name` with these options of `create_model`: the whole, and that of each layer by its name."""
    with torch.device("meta"):
        model = tdformer.create_model(name, **options).eval()
        channels, (height, width) = model.config["in_channels"], model.config["image_size"]
        picture = torch.empty(1, channels, height, width)
    layers: dict[str, Counts] = {}
    hooks = []
    for key, module in model.named_modules():
        of = next((of for kind, of in OF.items() if isinstance(module, kind)), None)
        if of is not None and not key.endswith(".current"):  # a unit counts its own

            def hook(module: nn.Module, args: Any, output: Tensor, key: str = key, of: Of = of) -> None:
                layers[key] = layers.get(key, Counts()) + of(module, args, output)

            hooks.append(module.register_forward_hook(hook))
    with torch.no_grad(), _Pooling() as pooling:
        model(picture)
    for handle in hooks:
        handle.remove()
    seen = next(iter(layers))  # the first layer that is done is the one that sees the picture
    layers[seen] = replace(layers[seen], products=0, first=layers[seen].products)
    layers["pooling"] = Counts(pooled=pooling.values)
    layers["head"] = Counts(products=model.head.weight.numel(), bias_columns=len(model.head.bias))
    return sum(layers.values(), Counts()), layers


class _Pooling(TorchDispatchMode):
    """Values that go into poolings; those of a unit are part of its neuron's kernel, and not seen here."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket is torch.ops.aten.max_pool2d_with_indices:
            self.values += args[0].numel()
        return func(*args, **(kwargs or {}))


def _layer(layer: nn.Module, args: Any, output: Tensor) -> Counts:
    """args: x, the state, and of a unit perhaps another input and its convolution."""
    current = layer.current if isinstance(layer, Unit) else layer
    assert isinstance(current, Current)
    x, state, *more = args
    conv, stride = current.conv, current.conv.stride[0]
    height, width = (-(-n // stride) for n in x.shape[-2:])
    steps = state.steps if len(x) == 1 else len(x)
    made = steps * conv.out_channels * height * width
    products = made * conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    if more and more[0] is not None:
        products += steps * more[1].weight.numel() * height * width
    return Counts(
        products=products,
        bias=made if conv.bias is not None else 0,
        bias_columns=steps * conv.out_channels if conv.bias is not None else 0,
        norm=made,
        neurons=steps * output[0].numel() if isinstance(layer, Unit) else 0,
        pooled=made if current.pool and isinstance(layer, Unit) else 0,
    )


def _attention(attention: nn.Module, args: Any, output: Tensor) -> Counts:
    assert isinstance(attention, SelfAttention)
    steps, _, channels, height, width = args[0].shape
    tokens = height * width
    return Counts(
        linear=2 * steps * tokens * channels * (channels // attention.heads),
        quadratic=2 * steps * tokens * tokens * channels,
    )


def _neuron(neuron: nn.Module, args: Any, output: Tensor) -> Counts:
    return Counts(neurons=output.numel())


def _processing(processing: nn.Module, args: Any, output: Tensor) -> Counts:
    assert isinstance(processing, Processing)
    return Counts(core=2 * output.numel() if processing.core else 0)


def _control(control: nn.Module, args: Any, output: Any) -> Counts:
    """The mixer of CM3; those of CM1 and CM2 are part of the unit that they feed."""
    assert isinstance(control, Control)
    if control.input is None or control.mix is None:
        return Counts()
    steps, _, _, height, width = args[0].shape
    return Counts(products=steps * control.mix.weight.numel() * height * width)


Of = Callable[[nn.Module, Any, Any], Counts]
OF: Mapping[type[nn.Module], Of] = {
    Unit: _layer,
    Current: _layer,
    SelfAttention: _attention,
    Neuron: _neuron,
    Processing: _processing,
    Control: _control,
}
