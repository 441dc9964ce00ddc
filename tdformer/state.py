"""What one batch carries through time.

Nothing hides in a module between calls: a fresh `State` starts a batch, and the segments of time hand it on.
So there is no reset to forget, and a smaller last batch needs no care.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class State:
    """Membrane potentials by unit name, each `[B, C, H, W]` in fp32 (fp64 for fp64 input), and the segment.

    `segment` counts from 0; the units advance `membrane` to the end of the time steps that they are given.
    """

    segment: int = 0
    membrane: dict[str, Tensor] = field(default_factory=dict)


class Stateful(nn.Module):
    """A module that keeps something in `State.membrane`, under `key`: its dotted name in the whole model."""

    key: str = ""


def name_units(model: nn.Module) -> None:
    """Give every stateful module its key; called once when the model is complete."""
    for name, module in model.named_modules():
        if isinstance(module, Stateful):
            module.key = name


def keys(module: nn.Module) -> Iterator[str]:
    """The keys that `module` and its parts may write."""
    return (part.key for part in module.modules() if isinstance(part, Stateful))
