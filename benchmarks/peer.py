"""The optional peer: the baseline with spikingjelly 2.0's own neuron and its `memopt` (checkpoints kept compressed).

    python -m pip install --no-deps spikingjelly==2.0.0 loguru

Level 1 of memopt, the highest that runs without CUDA, either by block or by unit (convolution, BatchNorm and neuron).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .published import LIF, Block, Embed, Layers, Published

INSTALLED = find_spec("spikingjelly") is not None


class _Unit(nn.Module):
    """One unit as a module of its own, so that memopt can take it."""

    def __init__(self, conv: nn.Module, norm: nn.Module, neuron: nn.Module, pool: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.neuron, self.pool = conv, norm, neuron, pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x.flatten(0, 1)))
        y = F.max_pool2d(y, 3, 2, 1) if self.pool else y
        return self.neuron(y.unflatten(0, x.shape[:2]).contiguous())


class _Reset(nn.Module):
    """Neurons start each call at rest."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        from spikingjelly.activation_based import functional

        functional.reset_net(self.model)
        return self.model(images)


def memopt(name: str, by: str, segments: int, time_steps: int, images: Tensor, **options: Any) -> nn.Module:
    """The baseline after memopt, in training mode. by: "block" or "unit". images: what it is tried with."""
    from spikingjelly.activation_based import memopt as peer
    from spikingjelly.activation_based import neuron, surrogate
    from spikingjelly.logger import logger

    logger.remove()
    model = Published(name, segments, time_steps, **options)
    for place, module in list(model.named_modules()):
        if isinstance(module, LIF):
            own = neuron.LIFNode(
                tau=2.0,
                v_threshold=module.threshold,
                v_reset=0.0,
                surrogate_function=surrogate.Sigmoid(4.0),
                detach_reset=True,
                step_mode="m",
            )
            model.set_submodule(place, own)
    if by == "unit":
        _split(model)
    whole = _Reset(model)
    peer.optimize_memory(whole, (_Unit,) if by == "unit" else (Embed, Block), _tried(images), level=1, compress=True)
    return whole.train()


def _tried(images: Tensor) -> Callable[[nn.Module], Tensor]:
    return lambda model: model(images)


def _split(model: nn.Module) -> None:
    for module in [m for m in model.modules() if isinstance(m, Layers)]:
        pools = {name: pool for name, _, pool in module.chain} if isinstance(module, Embed) else {}
        for name in [n.removesuffix("_conv") for n, _ in list(module.named_children()) if n.endswith("_conv")]:
            parts = [getattr(module, f"{name}_{part}") for part in ("conv", "bn", "lif")]
            for part in ("conv", "bn", "lif"):
                delattr(module, f"{name}_{part}")
            module.add_module(f"{name}_unit", _Unit(*parts, pools.get(name, False)))
        module.unit = types.MethodType(lambda self, name, x, pool=False: getattr(self, f"{name}_unit")(x), module)  # type: ignore[assignment]
