"""Firing rates: spikes per neuron and time step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..neuron import Neuron
from ..norm import is_recomputing


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """While the block runs, collect the firing rate of every unit by name; the dict is filled when it ends.

    A unit that was run several times (segments, micro-batches) gives the mean of its runs; recomputation is not one.
    """
    runs: dict[str, list[Tensor]] = {}

    def record(neuron: nn.Module, inputs: object, spikes: Tensor) -> None:
        assert isinstance(neuron, Neuron)
        if not is_recomputing():
            runs.setdefault(neuron.key, []).append(spikes.detach().float().mean())

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, Neuron)]
    rates: dict[str, float] = {}
    try:
        yield rates
    finally:
        for hook in hooks:
            hook.remove()
    rates.update({name: float(sum(values) / len(values)) for name, values in runs.items()})
