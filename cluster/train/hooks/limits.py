"""Ending a run early, when it meets a rule that its folder has: what a study stops its cells by."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from typing import TypedDict

from ...config import Config
from ...run.folder import RunFolder
from ...run.kept import Metrics
from ...run.records import record, write_atomic
from ...signals import KINDS
from ..step import Step
from .hook import HOOKS, Hook, Training


class Rules(TypedDict, total=False):
    """limits.json."""

    loss_above: int | float | None
    after_step: int | None
    not_finite: bool | None


@HOOKS.register("limits")
class Limits(Hook):
    """Reads limits.json: `loss_above`, of a logged loss after step `after_step`, and `not_finite`, of a step that is
    left out. Where one is met it writes stopped.json, with the rule and the step, and all ranks save and end."""

    loss_above: float | None
    after_step: int
    not_finite: bool

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return RunFolder(config.run_path).limits_file.exists()

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        rules: Rules = record(run.folder.limits_file, "run the study again, which writes it", Rules) or {}
        self.loss_above = rules.get("loss_above")
        self.after_step, self.not_finite = rules.get("after_step") or 0, bool(rules.get("not_finite"))

    def step(self, step: Step) -> None:
        if self.not_finite and not (step.applied or step.overflow):
            self._stop(step, "the loss is not finite")

    def logged(self, step: Step) -> None:
        loss, limit = step.loss, self.loss_above
        if limit is not None and loss is not None and step.number > self.after_step and loss > limit:
            self._stop(step, f"loss {loss:.4g} is above {limit:g} after step {self.after_step}")

    def _stop(self, step: Step, rule: str) -> None:
        """On all ranks, which have the same numbers; they agree on it in the next step."""
        if self.run.rank == 0 and not self.run.folder.stopped_file.exists():  # the first one counts
            said = {"step": step.number, "rule": rule}
            write_atomic(self.run.folder.stopped_file, (json.dumps(said) + "\n").encode())
        self.run.notice.seen[KINDS.index(signal.SIGTERM)] = 1
