"""Surrogate gradients of the processing modules' neurons, with and without the clamp of Eq 19."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..feedback import Processing
from .potentials import potentials, slope


class Slopes(NamedTuple):
    """dS / dH of one module's neurons in all steps in which it ran, `[T', B, C, H, W]`; driven: where a spike X came
    in, of the same shape; most: at the threshold."""

    values: Tensor
    driven: Tensor
    most: float


def cores(model: nn.Module) -> dict[str, Processing]:
    """The processing modules that have a core, whose map M is clamped, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Processing) and m.core}


@contextmanager
def unclamped(model: nn.Module) -> Iterator[None]:
    """While the block lasts no map M is clamped."""
    before = {module: (module.low, module.high) for module in cores(model).values()}
    for module in before:
        module.low, module.high = -math.inf, math.inf
    try:
        yield
    finally:
        for module, (low, high) in before.items():
            module.low, module.high = low, high


@torch.no_grad()
def processing_slopes(model: nn.Module, images: Tensor) -> dict[str, Slopes]:
    """By the name of the processing module; of a model in evaluation mode, run once. Raises ModelError as
    `potentials`."""
    inputs: dict[str, list[Tensor]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, given: inputs.setdefault(name, []).append(given[0])

    hooks = [m.neuron.register_forward_pre_hook(record(name)) for name, m in cores(model).items()]
    try:
        with potentials(model) as found:
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    slopes = {}
    for name, module in cores(model).items():
        o = module.neuron.options
        if name in inputs:
            h = torch.stack([*found[module.neuron.key].values()])
            most = float(slope(torch.tensor(o.threshold, dtype=torch.float64), o))
            slopes[name] = Slopes(slope(h, o), torch.cat(inputs[name]) != 0, most)
    return slopes
