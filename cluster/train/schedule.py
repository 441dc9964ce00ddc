"""The learning rate as a pure function of the step: nothing of it needs to be saved."""

from __future__ import annotations

import math
from collections.abc import Callable

from tdformer.plugins import Registry

from ..config import TrainConfig

Schedule = Callable[[TrainConfig, float], float]
"""The learning rate of a step from the progress of training after its warm-up, from 0 up to, but not, 1."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


def learning_rate(train: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Linear warm-up to lr, then what `train.schedule` says; `step` counts optimizer steps from 0."""
    total, warmup = train.epochs * steps_per_epoch, round(train.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    return SCHEDULES.get(train.schedule)(train, (step - warmup) / max(1, total - warmup))


@SCHEDULES.register("cosine")
def cosine(train: TrainConfig, progress: float) -> float:
    """From lr to min_lr."""
    return train.min_lr + (train.lr - train.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register("linear")
def linear(train: TrainConfig, progress: float) -> float:
    """From lr to min_lr."""
    return train.lr + (train.min_lr - train.lr) * progress


@SCHEDULES.register("constant")
def constant(train: TrainConfig, progress: float) -> float:
    """lr."""
    return train.lr
