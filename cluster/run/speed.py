"""What the clock says of steps: images a second, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .kept import Speed

WARM_UP = 3
"""Steps of a start that say nothing about the others: they compile, choose kernels and fill caches."""
KEPT = 0.95
"""The weight of a step in the mean, against the one after it: half of the mean is of the last 14 steps."""


@dataclass(frozen=True)
class Lap:
    """Images, the seconds they took, and how many of these were spent waiting for data."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def of(cls, rows: Iterable[Speed]) -> Lap:
        """The sum of rows of speed.jsonl."""
        return sum((cls(r["images"], r["seconds"], r["data_wait_seconds"]) for r in rows), cls())

    def __add__(self, other: Lap) -> Lap:
        return Lap(self.images + other.images, self.seconds + other.seconds, self.waited + other.waited)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0

    def row(self) -> dict[str, float]:
        """As speed.jsonl has it."""
        numbers = {"seconds": self.seconds, "images_per_second": self.rate, "data_wait_seconds": self.waited}
        return {"images": self.images, **{key: round(value, 4) for key, value in numbers.items()}}


class Pace:
    """The seconds of a step, as those of late took: a mean in which each step weighs KEPT of the one after it, without
    the first WARM_UP of this start."""

    def __init__(self) -> None:
        self.steps = 0
        self._seconds = self._weight = 0.0

    def add(self, seconds: float) -> None:
        self.steps += 1
        if self.steps > WARM_UP:
            self._seconds, self._weight = KEPT * self._seconds + seconds, KEPT * self._weight + 1

    def left(self, steps: int) -> float | None:
        """Seconds that so many steps will take; None: not known yet."""
        return steps * self._seconds / self._weight if self._weight else None
