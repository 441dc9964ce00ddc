"""Optimizers by name."""

from __future__ import annotations

import torch

from ..config import TrainConfig
from .optimizer import OPTIMIZERS, Groups, Optimizer, OverShares, Piece

__all__ = ["OPTIMIZERS", "STOPS", "Groups", "Optimizer", "OverShares", "Piece", "fuse"]


def _adamw(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.betas[0], train.betas[1]), eps=train.eps)


def _lamb(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    from .lamb import Lamb  # timm, which nothing else here needs

    return Lamb(groups, train)


def _sgd(groups: Groups, train: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.betas[0])


STOPS = "_step_supports_amp_scaling"
"""What torch calls it where an optimizer looks at the flag `found_inf` on its device, and then takes no step."""


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Have an optimizer take its steps on a GPU with few launches: one of torch in a kernel that moves all parameters
    and looks at a flag; LAMB with operators over lists of them."""
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True
            setattr(optimizer, STOPS, True)
        elif "foreach" in group:
            group["foreach"] = True


MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIMIZERS.register("adamw", Optimizer(_adamw, MOMENTS, working=2))
OPTIMIZERS.register("lamb", Optimizer(_lamb, MOMENTS, elementwise=False, working=2))
OPTIMIZERS.register("sgd", Optimizer(_sgd, ("momentum_buffer",), working=1))
