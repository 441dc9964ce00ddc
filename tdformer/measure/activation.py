"""Spike activation maps: where in a picture attention fires, and how often in short succession; no gradients.

Kim and Panda, "Visual explanations from spiking neural networks using inter-spike intervals", Scientific Reports 11,
19037 (2021). A spike of channel k at place (i, j) and time t' counts T(t, t') = exp(-gamma |t - t'|) at time t; the
neuron's score N is the sum over its spikes up to t, that of t too, and the map is M_t(i, j) = sum_k N_t^k S_t^k: high
where neurons fire at t that fired shortly before. gamma is 0.5 in the code that they published.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..attention import QKAttention, Steered
from ..errors import ModelError
from ..unit import Current, Unit

GAMMA = 0.5


def activation_map(spikes: Tensor, gamma: float = GAMMA) -> Tensor:
    """spikes `[T, B, C, H, W]`, of all steps from the first one on -> maps `[T, B, H, W]`."""
    score = torch.zeros_like(spikes[0])
    maps = []
    for fired in spikes:
        score = score * torch.exp(torch.tensor(-gamma)) + fired
        maps.append((score * fired).sum(1))
    return torch.stack(maps)


def attentions(model: nn.Module) -> dict[str, nn.Module]:
    """The spiking attentions by name, in the order in which they are run."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Steered | QKAttention)}


@contextmanager
def measure_attention(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """While the block runs one batch, collect what the attention of that name lets through: the spikes that enter its
    output projection, `[T/N, B, C, H, W]` of each segment, in their order. Raises ModelError where there is none."""
    found = attentions(model)
    if name not in found:
        raise ModelError(f"{name} is no attention; there are {', '.join(found)}")
    output = found[name].proj
    assert isinstance(output, Unit | Current)
    segments: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        segments.append(inputs[0].detach().float())

    hook = output.register_forward_pre_hook(keep)
    try:
        yield segments
    finally:
        hook.remove()
