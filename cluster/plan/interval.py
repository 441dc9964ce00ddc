"""How often to keep a checkpoint, and what share of the time is left where machines fail."""

from __future__ import annotations

import math

from ..config import Config
from ..config.shape import Shape


def young(stall: float, between: float) -> float:
    """Seconds from one checkpoint to the next that lose least: sqrt(2 stall between). stall: seconds that training
    stands still for one; between: mean seconds from one failure of the run to the next."""
    return math.sqrt(2 * stall * between)


def daly(stall: float, between: float) -> float:
    """The same to a higher order (Daly 2006, Eq 37); `between` itself where failures come faster than checkpoints."""
    if stall >= 2 * between:
        return between
    half = stall / (2 * between)
    return young(stall, between) * (1 + math.sqrt(half) / 3 + half / 9) - stall


def lost(every: float, stall: float, between: float, restart: float) -> float:
    """Share of the time that is lost: to checkpoints, each `every` seconds; and at each failure half of that and the
    seconds of a restart. Of first order: at most 1."""
    return min(1.0, stall / (every + stall) + (every / 2 + restart) / between)


def between(shape: Shape, hours: float) -> float:
    """Mean seconds from one failure of a run to the next; hours: of one GPU, or without GPUs of one machine."""
    return 3600 * hours / (shape.nodes * shape.gpus or shape.nodes)


def every(config: Config, step: float, epoch: int) -> float:
    """Seconds from one checkpoint to the next: by steps, after each epoch, and by the clock. step: seconds of one;
    epoch: steps."""
    asked = config.checkpoint
    by_clock = 60 * asked.every_minutes if asked.every_minutes else math.inf
    return min(step * min(epoch, asked.every_steps or epoch), by_clock)
