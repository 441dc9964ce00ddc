"""How often to keep a checkpoint, and what share of the time is left where machines fail."""

from __future__ import annotations

import math


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
