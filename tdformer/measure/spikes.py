"""Which neurons of one unit fired, at each time step and position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..kernels import largest_integer
from ..model import TDFormer
from ..neuron import lif
from ..norm import is_recomputing
from ..options import NeuronOptions
from .firing import spiking


@contextmanager
def record_outputs(
    model: TDFormer, unit: str | None = None, look: Callable[[Tensor], Tensor] = Tensor.detach
) -> Iterator[list[Tensor]]:
    """While the block runs, collect `look` of what a unit puts out, `[T/N, B, C, ...]`: a tensor for each segment of
    each forward pass. unit: one that `spiking` names; None: the last block, H_n. Recomputation is no pass.

    Raises ModelError for a name that is of no unit.
    """
    outputs: list[Tensor] = []
    module: nn.Module = model.backbone
    if unit is not None:
        units = spiking(model)
        if unit not in units:
            raise ModelError(f"{unit!r} is no unit of {model.config['name']}; one is {next(iter(units))}")
        module = units[unit]

    def record(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, Tensor]) -> None:
        if not is_recomputing():
            outputs.append(look((output if isinstance(output, Tensor) else output[1]).detach()))

    hook = module.register_forward_hook(record)
    try:
        yield outputs
    finally:
        hook.remove()


def fired(model: TDFormer, outputs: Sequence[Tensor]) -> Tensor:
    """Outputs of the segments of one forward pass, each `[T/N, B, C, ...]` -> whether each neuron fired, `[T, B, C,
    ...]` bool. Of a sum of spikes, as H_n of Spikformer and QKFormer is: whether one of them was there.

    H_n of a Spike-driven Transformer without feedback are currents: taken is what a LIF layer without parameters fires
    on them, which with feedback is its H_n.
    """
    whole = torch.cat(list(outputs))
    if largest_integer(whole) is None:
        options = ("neuron", "tau", "threshold", "v_reset", "surrogate", "alpha", "detach_reset")
        whole, _ = lif(whole, None, NeuronOptions(*(model.config[option] for option in options)))
    return whole > 0


def spikes_of(model: TDFormer, images: Tensor, unit: str | None = None) -> Tensor:
    """`fired` of one forward pass in evaluation: images `[B, C, H, W]` or frames `[T, B, C, H, W]` -> `[T, B, ...]`.
    Raises ModelError for a unit that is none, or that does not run at each time step."""
    with record_outputs(model, unit) as outputs, torch.no_grad():
        model.eval()(images)
    spikes = fired(model, outputs)
    if len(spikes) != model.time_steps:
        raise ModelError(
            f"{unit} runs at {len(spikes)} of {model.time_steps} time steps, since the first segment has no feedback; "
            "choose a unit outside of feedback"
        )
    return spikes
