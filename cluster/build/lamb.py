"""LAMB (You et al., arXiv 1904.00962), timm's, and its step under ZeRO, where a parameter lies in pieces on many ranks.

A parameter w with the direction u = m / (sqrt(v) + eps) + decay w moves by -lr |w| / |u| u; one without decay by -lr u.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.errors import DataError
from pipelines.views.vision import torchvision

from ..config import TrainConfig
from ..errors import RunError
from .optimizer import Group, Groups, Piece

try:
    torchvision()  # timm imports it
    from timm.optim import lamb as timm
except (ImportError, DataError) as error:
    raise RunError(
        f"train.optimizer=lamb is timm's, which does not import here ({error}); pip install 'tdformer[augment]', or "
        "set train.optimizer=adamw"
    ) from error


class Lamb(timm.Lamb):
    """timm's without its own clipping: `train.clip_grad` is the limit on all ranks together."""

    def __init__(self, groups: Groups, train: TrainConfig) -> None:
        super().__init__(
            groups, lr=train.lr, betas=train.betas, eps=train.eps, max_grad_norm=None, foreach=False
        )  # on a GPU `optimizers.fuse` turns that on
        for group in self.param_groups:
            group["step"] = torch.tensor(0.0)
        self._pieces: Mapping[Tensor, Sequence[Piece]] = {}
        self._parameters = 0

    def over_shares(self, pieces: Mapping[Tensor, Sequence[Piece]], parameters: int) -> None:
        self._pieces, self._parameters = pieces, parameters

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """timm's; over shares, of those that are in the groups now, on all ranks together."""
        if not self._pieces:
            return super().step(closure)
        for group in self.param_groups:
            for share in group["params"]:
                self._move(share, group)
        return None

    def _move(self, share: Tensor, group: Group) -> None:
        state, decay = self.state[share], group["weight_decay"]
        state["step"] += 1
        update = self._direction(share, state, group).add_(share, alpha=decay)
        if decay:
            squares = torch.zeros(2, self._parameters, dtype=torch.float64, device=share.device)
            pieces = [(p.parameter, slice(p.start, p.start + p.length)) for p in self._pieces[share]]
            for number, part in pieces:
                squares[0, number] = share[part].double().square().sum()
                squares[1, number] = update[part].double().square().sum()
            dist.all_reduce(squares)
            weight, length = squares.sqrt()
            trust = torch.where((weight > 0) & (length > 0), weight / length, 1.0).to(update.dtype)
            for number, part in pieces:
                update[part].mul_(trust[number])
        share.add_(update, alpha=-group["lr"])

    def _direction(self, share: Tensor, state: Mapping[str, Tensor], group: Group) -> Tensor:
        """m / (sqrt(v) + eps), each corrected for its start at zero, once m and v have moved: timm's step of length 1
        from zero, without decay and so without trust, is its negative."""
        count, (beta1, beta2) = state["step"].item(), group["betas"]
        step = torch.zeros_like(share)
        assert share.grad is not None  # ZeRO gives each share its part of the sums
        timm.lamb(
            [step],
            [share.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            foreach=False,
            lr=1.0,
            beta1=beta1,
            beta2=beta2,
            beta3=1 - beta1,
            bias_correction1=1 - beta1**count,
            bias_correction2=1 - beta2**count,
            eps=group["eps"],
            weight_decay=0.0,
            decoupled_decay=False,
            max_lr=None,
            trust_clip=False,
            always_adapt=False,
            caution=False,
        )
        return step.neg_()
