"""What one batch carries through time.

Nothing hides in a module between calls: a fresh `State` starts a batch, and the segments of time hand it on.
So there is no reset to forget, and a smaller last batch needs no care.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Keep:
    """What is kept for backward. packed: only packed inputs and membranes, unit by unit; else what autograd keeps.

    borders: of the membranes between two segments keep every `borders`-th, compute the others again.
    rounded: membranes are rounded to bf16 where segments meet, in every pass: half the bytes, another arithmetic.
    """

    packed: bool = False
    borders: int = 1
    rounded: bool = False

    def border(self, segment: int) -> bool:
        """Whether the membranes that enter this segment are kept."""
        return segment % self.borders == 0


@dataclass
class State:
    """Membrane potentials by unit name, each `[B, C, H, W]` in fp32 (fp64 for fp64 input), and where in time we are.

    segment counts from 0; steps is the number of time steps in it, for inputs `[1, B, C, H, W]` that are the same at
    each step (None: as many as the input has). The units advance `membrane` to the end of the segment; after the last
    one nobody asks for it, and it is not made.

    typed: weights and biases, each with itself in the type that autocast computes in, by its `place`, as far as they
    were made for all units at once; rates: what `neuron.decay_of` made for units before.
    """

    segment: int = 0
    steps: int | None = None
    last: bool = False
    keep: Keep = Keep()
    membrane: dict[str, Tensor] = field(default_factory=dict)
    typed: Mapping[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    rates: dict[tuple[object, ...], Tensor] = field(default_factory=dict)


def place(x: Tensor) -> tuple[int, int]:
    """Where a parameter lies: it can be known by that also where it comes detached, as out of a checkpoint."""
    return x.untyped_storage()._cdata, int(x.storage_offset())


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
