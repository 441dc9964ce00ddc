"""Operations of a network: 2 a multiply-add of its convolutions and matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..model import TDFormer


def forward_flops(model: TDFormer, images: Tensor) -> int:
    """Of one pass over `images` `[B, C, H, W]` or `[T, B, C, H, W]`, through all time steps. On the meta device nothing
    is computed."""
    training = model.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(images)
    finally:
        model.train(training)
    return int(counter.get_total_flops())
