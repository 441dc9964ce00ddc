"""Firing rates: the columns `firing_rate` and `silent`, means over the units of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tdformer.measure import measure_firing

from ...config import Config
from ..step import Step
from .hook import HOOKS, Hook


@HOOKS.register("firing")
class FiringRates(Hook):
    """Of the first rank's share of a logged step."""

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return True

    def during(self, step: Step) -> AbstractContextManager[object]:
        return self._measured(step) if step.logs else nullcontext()

    @contextmanager
    def _measured(self, step: Step) -> Iterator[None]:
        with measure_firing(self.run.engine.module) as step.firing:
            yield

    def step(self, step: Step) -> None:
        if step.logs:
            units = step.firing.values()
            step.row["firing_rate"] = sum(unit.rate for unit in units) / len(units)
            step.row["silent"] = sum(unit.silent for unit in units) / len(units)
