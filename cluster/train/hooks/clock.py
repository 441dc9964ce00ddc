"""What the time of a start goes into: clock.jsonl, which `cluster.run.goodput` accounts for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from ...config import Config
from ...run.clock import EVERY, PARTS, Clock
from ...run.kept import Metrics
from ...run.speed import WARM_UP
from ..step import Step
from .hook import HOOKS, Hook, Training


@HOOKS.register("clock")
class Clocked(Hook):
    """On the first rank. Steps, evaluations and saves come one after the other, so each lasts from the end of what was
    before to its own moment here: an evaluation with the drawing of its curves, a save as long as training stands."""

    watches = True
    clock: Clock | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.number = self.steps = 0  # the last step; how many in this start
        self.mark = self.told = 0.0  # when what was before had ended, and when the last row was written
        self.begun = self.saving = False  # past the loading; a save came last

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return True

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        self.clock = Clock.of(run.folder.clock) if run.rank == 0 else None
        self.number, self.mark = run.state.step, time.perf_counter()

    def step(self, step: Step) -> None:
        self._loaded(step.begun)
        self.mark = time.perf_counter()
        self.number, self.steps, self.saving = step.number, self.steps + 1, False
        lap = self.mark - step.begun
        if self.steps <= WARM_UP:
            self.spent["warm_up"] += lap
        else:
            self.spent["data"] += step.waited
            self.spent["train"] += lap - step.waited
        if step.logs or self.steps <= WARM_UP or self.mark - self.told >= EVERY:
            self._tell()

    def evaluated(self, row: Mapping[str, object]) -> None:
        self._passed("evaluation")

    def saved(self, step: int) -> None:
        self._passed("checkpoint")
        self.saving = True

    def end(self, summary: dict[str, object] | None) -> None:
        if self.saving:  # nothing came after it but the wait for the disk
            self._passed("checkpoint")

    def _passed(self, part: str) -> None:
        """The time since the mark went into this."""
        self._loaded(self.mark)
        now = time.perf_counter()
        self.spent[part] += now - self.mark
        self.mark = now
        self._tell()

    def _loaded(self, at: float) -> None:
        if not self.begun and self.clock is not None:
            self.begun = True
            self.spent["loading"] = self.clock.seconds() - (time.perf_counter() - at)

    def _tell(self) -> None:
        self.told = self.mark
        if self.clock is not None:
            spent = {part: round(seconds, 4) for part, seconds in self.spent.items()}
            self.clock.tell(step=self.number, steps=self.steps, **spent)
