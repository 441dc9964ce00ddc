"""Mixup and cutmix between neighbours in the global batch: positions 2i and 2i + 1 are each other's partner.

The order is a random permutation already, so neighbours are a random pair; and the draw of a pair is keyed by
(seed, epoch, step, pair), so the result does not depend on the number of ranks or the micro-batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draws import MIX
from ..errors import DataError


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """labels `[B]` -> probabilities `[B, classes]`, with smoothing / classes spread over all."""
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mix(
    images: Tensor,
    targets: Tensor,
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    step: int,
    position: int,
) -> tuple[Tensor, Tensor]:
    """Mix a micro-batch that starts at `position` of its global batch.

    images float `[B, C, H, W]` or frames `[B, T, C, H, W]`, targets `[B, K]`; mixup and cutmix are the alphas of
    Beta(alpha, alpha), 0 is off; where both are on, each pair draws one of the two. Raises DataError when B or position
    is odd.
    """
    if len(images) % 2 or position % 2:
        raise DataError(f"mixing works on pairs, but the micro-batch has {len(images)} images from position {position}")
    if not (mixup or cutmix):
        return images, targets
    height, width = images.shape[-2:]
    draws = []
    for pair in range(position // 2, (position + len(images)) // 2):
        rng = MIX.rng(seed, epoch, step, pair)
        if mixup and (not cutmix or rng.random() < 0.5):
            own = float(rng.beta(mixup, mixup))
            draws.append((own, own, 0, 0, 0, 0))
        else:
            side = (1 - float(rng.beta(cutmix, cutmix))) ** 0.5
            h, w = round(height * side), round(width * side)
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            draws.append((1 - h * w / (height * width), 1.0, y, y + h, x, x + w))
    drawn = torch.tensor(draws, device=images.device).view(-1, 6, 1, 1)
    weight, outside, top, bottom, left, right = drawn.unbind(1)
    rows, columns = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    keep = outside.where(~inside, 0.0).to(images.dtype)
    keep = keep.view(-1, *[1] * (images.dim() - 2), height, width)
    return _blend(images, keep), _blend(targets, weight.to(targets.dtype))


def _blend(x: Tensor, keep: Tensor) -> Tensor:
    """Each of a pair, `[2P, ...]`, with `keep` `[P, ...]` of itself and the rest of its partner."""
    pairs = x.view(-1, 2, *x.shape[1:])
    return (pairs * keep + pairs.flip(1) * (1 - keep)).flatten(0, 1)
