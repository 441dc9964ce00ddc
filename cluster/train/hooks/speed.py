"""Throughput and utilisation: speed.jsonl, and the time and speed of the whole run in its summary."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from ...config import Config
from ...run.console import peak_memory
from ...run.kept import Metrics
from ...run.monitor import sound
from ...run.speed import Lap
from ..step import Step
from ..utilisation import Utilisation
from .hook import HOOKS, Hook, Training


@HOOKS.register("speed")
class Speed(Hook):
    """Steps are timed with the wait for their data and with what other hooks do in them, without evaluations and
    checkpoints."""

    watches = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.lap = self.whole = Lap()  # since the last row; in all starts
        self.utilisation = Utilisation()
        self.rates: dict[str, float] = {}  # of the last row

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return True

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        if run.rank == 0:
            said = partial(print, flush=True)
            self.whole = Lap.of(sound(run.folder.speed, said, "step", "images", "seconds", "data_wait_seconds"))
            starts, _ = run.folder.starts.whole()
            self.utilisation = Utilisation.of(starts[-1] if starts else {}, self.config, run.recompute)

    def step(self, step: Step) -> None:
        step.lap = Lap(step.images, time.perf_counter() - step.begun, step.waited)
        self.lap += step.lap
        if step.logs:
            self.rates = self.utilisation.row(self.lap)
            step.speed = self.lap.row() | self.rates | {"peak_gib": round(peak_memory()[0], 4)}

    def logged(self, step: Step) -> None:
        if self.run.rank == 0:
            self.run.folder.speed.append({"step": step.number, **step.speed})
        self.run.monitor.timed(self.lap, self.rates)
        self.whole, self.lap = self.whole + self.lap, Lap()

    def end(self, summary: dict[str, object] | None) -> None:
        if summary is not None:
            total = (self.whole + self.lap).row()
            summary |= {"train_seconds": total["seconds"], "images_per_second": total["images_per_second"]}
