"""What an optimizer is: how it is made, and what it keeps of each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tdformer.plugins import Registry

from ..config import TrainConfig

Group = dict[str, Any]
Groups = list[Group]
"""Parameters in groups as torch has them, each with its `weight_decay`, and the `lr_scale` that each step's learning
rate is times."""


@dataclass(frozen=True)
class Optimizer:
    """make: the optimizer of parameter groups, whose learning rates are set before each step. It counts its steps, if
    it does, as `step` in its state of a parameter or in a group.

    states: what it keeps of each parameter, by torch's names. Each has the parameter's shape, is zero at the start, and
    is kept in checkpoints; nothing else is, so the rest must be a function of the step.
    elementwise: whether an element's step depends on that element alone. Where it does not, ZeRO 1 to 3, which hand the
    optimizer flat shares of many parameters, need one that is `OverShares`.
    working: how many tensors of a parameter's size a step makes at once where it takes one parameter after the other,
    as on a CPU.
    """

    make: Callable[[Groups, TrainConfig], torch.optim.Optimizer]
    states: tuple[str, ...]
    elementwise: bool = True
    working: int = 0


class Piece(NamedTuple):
    """The elements `start` to `start + length` of a flat share: of the parameter with this number among all."""

    parameter: int
    start: int
    length: int


class OverShares(Protocol):
    """An optimizer that takes its steps over flat shares of parameters."""

    def over_shares(self, pieces: Mapping[Tensor, Sequence[Piece]], parameters: int) -> None:
        """What each flat share of this rank is made of, and how many parameters there are, on all ranks."""


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
