"""Firing rates: spikes per neuron and time step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..neuron import Neuron
from ..norm import is_recomputing
from ..unit import Unit


def spiking(model: nn.Module) -> dict[str, nn.Module]:
    """The modules whose output is spikes, by the key of their neurons: units, and neurons that stand alone."""
    units = {m.neuron: m for m in model.modules() if isinstance(m, Unit)}
    return {n.key: units.get(n, n) for n in model.modules() if isinstance(n, Neuron)}


@contextmanager
def firing_rates(model: nn.Module) -> Iterator[dict[str, float]]:
    """While the block runs, collect the firing rate of every unit by name; the dict is filled when it ends.

    A unit that was run several times (segments, micro-batches) gives the mean of its runs; recomputation is not one.
    """
    runs: dict[str, list[Tensor]] = {}

    def record(key: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, spikes: Tensor) -> None:
            if not is_recomputing():
                runs.setdefault(key, []).append(spikes.detach().float().mean())

        return hook

    hooks = [module.register_forward_hook(record(key)) for key, module in spiking(model).items()]
    rates: dict[str, float] = {}
    try:
        yield rates
    finally:
        for hook in hooks:
            hook.remove()
    rates.update({name: float(sum(values) / len(values)) for name, values in runs.items()})
