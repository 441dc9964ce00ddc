"""Optimizers by name."""

from __future__ import annotations

import torch

from ..config import TrainConfig
from .optimizer import OPTIMIZERS, Groups, Optimizer, OverShares, Piece

__all__ = ["OPTIMIZERS", "Groups", "Optimizer", "OverShares", "Piece"]


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
