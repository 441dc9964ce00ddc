"""Recompute policies: what a training step keeps for the backward pass, and what it computes again.

| policy | kept |
| none | what autograd keeps |
| block | what enters each part of the backbone: stem, embedding, block |
| time | what crosses the border of two segments |
| unit | the packed spikes that enter each unit, and the membranes at the borders, or at every k-th of them |

All give the same gradients and BatchNorm statistics, to the bit. Another one is a subclass of `Policy`, registered in
`POLICIES`: it can compute anything again that is a part of the backbone or a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from .plugins import Registry
from .recompute import recomputed
from .state import State

R = TypeVar("R")


class Place(NamedTuple):
    """Where a part lies in its backbone: its number, from 0 at the input, and how many there are."""

    number: int
    total: int


class Policy:
    """Runs a model's parts and segments so that something is kept. As it stands, autograd keeps what it keeps."""

    packed: bool = False
    """Units keep packed inputs and membranes alone; then `recompute.borders` says at which borders."""
    auto: int | None = None
    """Its place among those that `recompute.policy: auto` tries, the fastest first; None: it is not tried."""

    def segment(self, model: nn.Module, call: Callable[..., R], state: State, *inputs: Tensor | None) -> R:
        """`call(*inputs, state)`, one segment of time; `model` holds all units that it advances."""
        return call(*inputs, state)

    def part(self, part: nn.Module, place: Place, state: State, *inputs: Tensor | None) -> Tensor:
        """`part(*inputs, state)`."""
        output: Tensor = part(*inputs, state)
        return output

    def borders(self, segments: int) -> list[int]:
        """The values of `recompute.borders` that `auto` tries, from the fastest on."""
        return [2**i for i in range(segments.bit_length())] if self.packed else [1]


POLICIES: Registry[Policy] = Registry("recompute policy")


class Everything(Policy):
    auto = 10


class Blocks(Policy):
    auto = 20

    def part(self, part: nn.Module, place: Place, state: State, *inputs: Tensor | None) -> Tensor:
        output: Tensor = recomputed(part, part, state, *inputs)
        return output


class Segments(Policy):
    """`auto` leaves it out: it computes as much again as `block`, and needs more."""

    def segment(self, model: nn.Module, call: Callable[..., R], state: State, *inputs: Tensor | None) -> R:
        return recomputed(model, call, state, *inputs)


class Units(Policy):
    packed = True
    auto = 30


POLICIES.register("none", Everything())
POLICIES.register("block", Blocks())
POLICIES.register("time", Segments())
POLICIES.register("unit", Units())


class Choice(NamedTuple):
    """A policy's name, and of the membranes at the borders which are kept: every `borders`-th."""

    policy: str
    borders: int = 1


def choices(segments: int) -> list[Choice]:
    """What `recompute.policy: auto` tries for so many segments, in that order: what needs least comes last."""
    ranks = {name: rank for name in POLICIES if (rank := POLICIES.get(name).auto) is not None}
    tried = sorted(ranks, key=ranks.__getitem__)
    return [Choice(name, borders) for name in tried for borders in POLICIES.get(name).borders(segments)]


def smallest() -> str:
    """The policy that needs least memory of those that `auto` tries."""
    return choices(1)[-1].policy
