"""Recompute policies: what each computes again in backward, and which of them `auto` tries."""

from __future__ import annotations

import pytest
import torch

from tdformer.policies import POLICIES, Choice, Place, choices, smallest
from tdformer.state import State
from tdformer.unit import Unit, UnitOptions

PASSES = {"none": (1, 1), "block": (2, 1), "time": (1, 2), "unit": (1, 1)}
"""Of a part and of a segment, forward and backward together."""


@pytest.mark.parametrize("name", PASSES)
def test_what_is_computed_again_in_backward(name: str) -> None:
    unit, policy, seen = Unit(UnitOptions(), 2, 3), POLICIES.get(name), []
    unit.neuron.key = "neuron"
    unit.register_forward_pre_hook(lambda *_: seen.append(1))
    x, found, outputs = torch.randn(4, 2, 2, 5, 5), [], []
    for as_part in (True, False):
        seen.clear()
        state = State()
        made = policy.part(unit, Place(0, 1), state, x) if as_part else policy.segment(unit, unit, state, x)
        assert len(seen) == 1 and set(state.membrane) == {"neuron"}
        made.sum().backward()
        found.append(len(seen))
        outputs.append(made.detach())
    assert tuple(found) == PASSES[name] and torch.equal(*outputs)
    assert policy.packed == (name == "unit")


@pytest.mark.parametrize(("segments", "borders"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_what_auto_tries(segments: int, borders: list[int]) -> None:
    """From what keeps most to what keeps least; `time` is left out."""
    assert choices(segments) == [Choice("none"), Choice("block"), *(Choice("unit", border) for border in borders)]
    assert choices(1)[-1].policy == smallest() == "unit"
