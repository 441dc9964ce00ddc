"""Firing rates: spikes per neuron and time step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..neuron import Neuron
from ..norm import is_recomputing
from ..unit import Unit


class Firing(NamedTuple):
    """rate: spikes per neuron and time step; silent: the share of channels that did not fire at all; channels: the rate
    of each, `[C]`."""

    rate: float
    silent: float
    channels: Tensor = torch.empty(0)


def spiking(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose output is spikes, by the key of their neurons: units, and neurons that stand alone."""
    units = {m.neuron: m for m in model.modules() if isinstance(m, Unit)}
    return {n.key: units.get(n, n) for n in model.modules() if isinstance(n, Neuron)}


@contextmanager
def measure_firing(model: nn.Module) -> Iterator[dict[str, Firing]]:
    """While the block runs, collect the firing of every unit by name; the dict is filled when it ends.

    A unit that was run several times (segments, micro-batches) gives the mean of its runs; recomputation is not one.
    """
    firing: dict[str, Firing] = {}
    with _means(model, 2) as runs:
        yield firing
    means = {name: torch.stack(values).mean(0) for name, values in runs.items()}
    told = [value for own in means.values() for value in (own.mean(), (own == 0).float().mean())]
    numbers = iter(torch.stack(told).tolist() if told else [])  # the device is waited for once
    firing |= {name: Firing(next(numbers), next(numbers), own) for name, own in means.items()}


@contextmanager
def measure_rates(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While the block runs one batch, collect the spikes per neuron and time step of every unit by name, `[B]`, one for
    each image; the dict is filled when it ends. Of several segments their mean."""
    rates: dict[str, Tensor] = {}
    with _means(model, 1) as runs:
        yield rates
    rates |= {name: torch.stack(values).mean(0) for name, values in runs.items()}


@contextmanager
def _means(model: nn.Module, kept: int) -> Iterator[dict[str, list[Tensor]]]:
    """The mean of each run of every unit over all dimensions of its spikes `[T, B, C, ...]` but one."""
    runs: dict[str, list[Tensor]] = {}

    def record(key: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, spikes: Tensor) -> None:
            if not is_recomputing():
                others = [d for d in range(spikes.dim()) if d != kept]
                runs.setdefault(key, []).append(spikes.detach().float().mean(others))

        return hook

    hooks = [module.register_forward_hook(record(key)) for key, module in spiking(model).items()]
    try:
        yield runs
    finally:
        for hook in hooks:
            hook.remove()
