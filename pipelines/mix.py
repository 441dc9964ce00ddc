"""Mixup and cutmix between neighbours in the global batch: positions 2i and 2i + 1 are each other's partner.

The order is a random permutation already, so neighbours are a random pair; and the draw of a pair is keyed by
(seed, epoch, step, pair), so the result does not depend on the number of ranks or the micro-batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import DataError
from .order import keyed_rng

_DOMAIN = 0x6D6978  # keeps these draws apart from those of augmentation, which has a key of the same length


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

    images float `[B, C, H, W]`, targets `[B, K]`; mixup and cutmix are the alphas of Beta(alpha, alpha), 0 is off;
    where both are on, each pair draws one of the two. Raises DataError when B or position is odd.
    """
    if len(images) % 2 or position % 2:
        raise DataError(f"mixing works on pairs, but the micro-batch has {len(images)} images from position {position}")
    if not (mixup or cutmix):
        return images, targets
    images, targets = images.clone(), targets.clone()
    height, width = images.shape[-2:]
    for pair in range(len(images) // 2):
        rng = keyed_rng(_DOMAIN, seed, epoch, step, position // 2 + pair)
        both = slice(2 * pair, 2 * pair + 2)
        here, partner = images[both], images[both].flip(0)
        if mixup and (not cutmix or rng.random() < 0.5):
            weight = float(rng.beta(mixup, mixup))
            images[both] = here * weight + partner * (1 - weight)
        else:
            side = (1 - float(rng.beta(cutmix, cutmix))) ** 0.5
            h, w = round(height * side), round(width * side)
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            here[..., top : top + h, left : left + w] = partner[..., top : top + h, left : left + w]
            weight = 1 - h * w / (height * width)
        targets[both] = targets[both] * weight + targets[both].flip(0) * (1 - weight)
    return images, targets
