"""How long work takes on a CPU: its operators, timed one by one at the shapes that a step gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tdformer.measure import Work


@dataclass(frozen=True)
class Timed:
    """Seconds of one run: of a micro-batch in training by part (see `rates.Speed`), of one in evaluation, and of a
    step's end. Nothing is counted: they hold for the work that was timed."""

    parts: dict[str, float]
    tested: float
    end: float
    source: str = "measured here"

    def training(self, course: Sequence[Work]) -> dict[str, float]:
        """See `rates.Speed`."""
        return self.parts

    def evaluation(self, count: Callable[[], Work]) -> float:
        """See `rates.Speed`."""
        return self.tested

    def optimizer(self, moved: int) -> float:
        """See `rates.Speed`."""
        return self.end
