"""Mixup and cutmix between neighbours in the global batch: positions 2i and 2i + 1 are each other's partner.

The order is a random permutation already, so neighbours are a random pair; and the draw of a pair is keyed by
(seed, epoch, step, pair), so the result does not depend on the number of ranks or the micro-batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..draws import MIX
from ..errors import DataError


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """labels `[B]` -> probabilities `[B, classes]`, with smoothing / classes spread over all. Two operators."""
    spread = smoothing / classes
    own = float(np.float32(1 - smoothing) + np.float32(spread))  # rounded as torch rounds a one times and plus these
    return torch.full((len(labels), classes), spread, device=labels.device).scatter_(1, labels[:, None], own)


def drawn(
    count: int,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    seed: int,
    epoch: int,
    step: int,
    position: int,
) -> Tensor:
    """How the pairs of a micro-batch of `count` samples of H x W = `size` pixels are mixed, for `mixed`: float32
    `[count / 2, 2 + H + W]`. position: of its first sample in the global batch.

    mixup and cutmix are the alphas of Beta(alpha, alpha), 0 is off; where both are on, each pair draws one of the two.
    Raises DataError when count or position is odd, ValueError where both are off.
    """
    if count % 2 or position % 2:
        raise DataError(f"mixing works on pairs, but the micro-batch has {count} images from position {position}")
    if not (mixup or cutmix):
        raise ValueError("neither mixup nor cutmix is on")
    height, width = size
    found = np.zeros((count // 2, 2 + height + width), np.float32)
    for pair, row in enumerate(found, position // 2):
        rng = MIX.rng(seed, epoch, step, pair)
        if mixup and (not cutmix or rng.random() < 0.5):
            row[:2] = rng.beta(mixup, mixup)
        else:
            side = (1 - float(rng.beta(cutmix, cutmix))) ** 0.5
            h, w = round(height * side), round(width * side)
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            row[:2] = 1 - h * w / (height * width), 1.0
            rows, columns = np.split(row[2:], [height])
            rows[y : y + h] = columns[x : x + w] = 1.0
    return torch.from_numpy(found)


def swaps(how: Tensor) -> bool:
    """Whether each value that comes of `how`, which `drawn` gave, is one of its pair's, as it was."""
    return bool((how[:, 1] == 1).all())


def mixed(images: Tensor, targets: Tensor, how: Tensor) -> tuple[Tensor, Tensor]:
    """images float `[B, C, H, W]` or frames `[B, T, C, H, W]` and targets `[B, K]`, mixed as `drawn` says on their
    device: eleven operators, whatever B is. They lie in memory as they did."""
    height, width = images.shape[-2:]
    own, outside, rows, columns = how.split([1, 1, height, width], 1)
    # Of a pixel that lies in a row and in a column of the box nothing is kept; the products are 0 or 1, so exact.
    keep = torch.addcmul(outside[:, :, None], rows[:, :, None], columns[:, None], value=-1).to(images.dtype)
    keep = keep.view(-1, *[1] * (images.dim() - 2), height, width)
    return _blend(images, keep), _blend(targets, own.to(targets.dtype)[:, :, None])


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
    """Mix a micro-batch that starts at `position` of its global batch: `drawn`, then `mixed`; neither mixup nor cutmix:
    as it is. Raises DataError when B or position is odd."""
    if not (mixup or cutmix):
        return images, targets
    height, width = images.shape[-2:]
    key = {"seed": seed, "epoch": epoch, "step": step, "position": position}
    how = drawn(len(images), (height, width), mixup=mixup, cutmix=cutmix, **key)
    return mixed(images, targets, how.to(images.device))


def _blend(x: Tensor, keep: Tensor) -> Tensor:
    """Each of a pair, `[2P, ...]`, with `keep` `[P, ...]` of itself and the rest of its partner."""
    pairs = x.view(-1, 2, *x.shape[1:])
    return (pairs * keep).add_(pairs.flip(1).mul_(1 - keep)).flatten(0, 1)
