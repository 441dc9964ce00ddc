"""Optimizers by name: how one is made, and what it keeps of each parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tdformer.plugins import Registry

from ..config import TrainConfig

Groups = list[dict[str, Any]]
"""Parameters in groups, each with its `weight_decay`, and the `lr_scale` that each step's learning rate is times."""


@dataclass(frozen=True)
class Optimizer:
    """make: the optimizer of parameter groups, whose learning rates are set before each step. It counts its steps, if
    it does, as `step` in its state of a parameter or in a group.

    states: what it keeps of each parameter, by torch's names. Each has the parameter's shape, is zero at the start, and
    is kept in checkpoints; nothing else is, so the rest must be a function of the step.
    elementwise: whether an element's step depends on that element alone. Where it does not, ZeRO 1 to 3, which hand the
    optimizer flat shares of many parameters, need one that is `OverShares`.
    """

    make: Callable[[Groups, TrainConfig], torch.optim.Optimizer]
    states: tuple[str, ...]
    elementwise: bool = True


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


def _adamw(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.betas[0], train.betas[1]), eps=train.eps)


def _lamb(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    from .lamb import Lamb  # timm, which nothing else here needs

    return Lamb(groups, train)


def _sgd(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.betas[0])


MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIMIZERS.register("adamw", Optimizer(_adamw, MOMENTS))
OPTIMIZERS.register("lamb", Optimizer(_lamb, MOMENTS, elementwise=False))
OPTIMIZERS.register("sgd", Optimizer(_sgd, ("momentum_buffer",)))
