"""Rows and speeds to TensorBoard (`log.tensorboard`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...config import Config
from ...errors import RunError
from ...run.kept import Metrics
from ..step import Step
from .hook import HOOKS, Hook, Training

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@HOOKS.register("tensorboard")
class TensorBoard(Hook):
    """`tensorboard --logdir runs` shows every run below it: a scalar for each number of metrics.jsonl and speed.jsonl,
    and for each unit's firing rate. On the first rank."""

    watches = True
    writer: SummaryWriter | None = None

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if find_spec("tensorboard") is None:
            raise RunError("log.tensorboard needs tensorboard: pip install tensorboard, or set log.tensorboard=false")

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return config.log.tensorboard

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        if run.rank == 0:
            from torch.utils.tensorboard import SummaryWriter

            # Steps that are computed again take the place of those that a kill has left there.
            self.writer = SummaryWriter(str(run.folder.path / "tensorboard"), purge_step=run.state.step + 1)

    def logged(self, step: Step) -> None:
        self._add(step.row, "train")
        self._add({"step": step.number, **step.speed}, "speed")
        self._add({"step": step.number, **{name: unit.rate for name, unit in step.firing.items()}}, "firing")

    def evaluated(self, row: Mapping[str, object]) -> None:
        self._add({key.removeprefix("eval_"): value for key, value in row.items()}, "test")

    def saved(self, step: int) -> None:
        """What comes before the checkpoint that a run goes on from is in the file."""
        if self.writer is not None:
            self.writer.flush()

    def end(self, summary: dict[str, object] | None) -> None:
        if self.writer is not None:
            self.writer.close()

    def _add(self, row: Mapping[str, object], group: str) -> None:
        for key, value in row.items():
            if self.writer is not None and key != "step" and isinstance(value, int | float):
                self.writer.add_scalar(f"{group}/{key}", value, row["step"])
