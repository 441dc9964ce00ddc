"""The learning rate as a pure function of the step: nothing of it needs to be saved."""

from __future__ import annotations

import math

from ..config import TrainConfig


def learning_rate(train: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up, then a cosine from lr to min_lr; `step` counts optimizer steps from 0."""
    total, warmup = train.epochs * steps_per_epoch, round(train.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return train.min_lr + (train.lr - train.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
