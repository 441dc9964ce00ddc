"""Rows and speeds to wandb (`log.wandb`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ...config import Config
from ...run import wandb_id, wandb_log
from ...run.kept import Metrics
from ..step import Step
from .hook import HOOKS, Hook, Training

if TYPE_CHECKING:
    from wandb import Run


@HOOKS.register("wandb")
class Wandb(Hook):
    """Rows of metrics.jsonl and speed.jsonl, and each unit's firing rate; on the first rank."""

    watches = True
    log: Run | None = None

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return config.log.to_wandb

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        if run.rank:
            return
        self.log = wandb_log.start(run.folder, self.config, lambda line: print(line, flush=True))
        # What a start that was killed may have taken with it: wandb writes its log in blocks, from another process.
        speeds, _ = run.folder.speed.whole("step", "images", "seconds", "data_wait_seconds")
        had, speed = wandb_id.sent(run.folder), {row["step"]: row for row in speeds}
        for row in rows:
            if row["step"] > had:
                self._send({**row, **speed.get(row["step"], {})}, row["step"])

    def logged(self, step: Step) -> None:
        self._send(
            {**step.row, **step.speed, **{f"firing/{name}": unit.rate for name, unit in step.firing.items()}},
            step.number,
        )

    def evaluated(self, row: Mapping[str, object]) -> None:
        self._send(row, self.run.state.step)

    def end(self, summary: dict[str, object] | None) -> None:
        if self.log is None:
            return
        if summary is not None:
            self.log.summary.update(summary)
        wandb_log.finish(self.log)
        self.log = None
        wandb_id.note_sent(self.run.folder, self.run.state.step)

    def _send(self, row: Mapping[str, object], step: int) -> None:
        if self.log is not None:
            self.log.log(dict(row), step=step)
