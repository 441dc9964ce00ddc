"""Exponential moving average of the weights, whole on every rank, whatever the ZeRO stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .engine import gathered


class EMA:
    """average <- decay average + (1 - decay) weight, after every optimizer step; BatchNorm's buffers likewise."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {k: v.detach().clone().float() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, engine: Any) -> None:
        """Move the average towards the weights that the step left; all ranks call it together."""
        model = engine.module
        with gathered(list(model.parameters())):
            for name, value in [*model.named_parameters(), *model.named_buffers()]:
                self.average[name].lerp_(value.detach().float(), 1 - self.decay)
