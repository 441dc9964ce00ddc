"""A hook: something that goes on beside training, and the moments at which it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tdformer.plugins import Registry

from ...build.planner import Recompute
from ...config import Config
from ...run.folder import RunFolder
from ...run.kept import Metrics
from ...run.monitor import Monitor
from ...signals import Notice
from ..slots import Addend
from ..state import TrainState
from ..step import Step

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


class Training(Protocol):
    """What a hook sees of its run. hosts: of each rank; recompute: what `auto` has chosen for all; engine: DeepSpeed's,
    with the model as its `module`; monitor: there from the first step on; notice: what this rank was asked."""

    config: Config
    folder: RunFolder
    device: torch.device
    rank: int
    world: int
    hosts: list[str]
    total_steps: int
    epoch_steps: int
    recompute: Recompute | None
    engine: DeepSpeedEngine
    state: TrainState
    monitor: Monitor
    notice: Notice


class Hook:
    """A subclass overrides the moments that it needs. All ranks call each of them, in the same order.

    What it adds to a step's row must be a function of the steps alone, without a clock: a run that was killed writes
    the same rows again. What it keeps from one step to the next it gives with `state` or `tensors`, and takes back with
    `load`; they must be the same on all ranks, and the first one writes them. Its options are its own business: the
    whole configuration is in `self.config`.
    """

    name = ""
    """The one that it is registered under."""
    watches = False
    """It comes after all hooks that do not: what they do and add is there for it, and in the time that it takes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run: Training

    @classmethod
    def wanted(cls, config: Config) -> bool:
        """Whether a configuration turns it on without naming it in `train.hooks`."""
        return False

    def slots(self, world: int) -> Mapping[str, int]:
        """Names for what it adds up over the ranks, and how many numbers each one holds."""
        return {}

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        """A start: weights are there. rows: metrics.jsonl up to here, on the first rank."""
        self.run = run

    def load(self, state: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        """After `begin`, where the checkpoint that the run goes on from has something of this hook's; to be copied,
        since the files may be removed."""

    def during(self, step: Step) -> AbstractContextManager[object]:
        """Around the forward and backward passes of a step."""
        return nullcontext()

    def share(self, step: Step) -> Mapping[str, Addend]:
        """After them: what this rank adds to the hook's slots. A slot that is left out gets 0."""
        return {}

    def step(self, step: Step) -> None:
        """A step is done: `step.sums` are there. What is put into `step.row` is written where `step.logs`."""

    def logged(self, step: Step) -> None:
        """A row is written."""

    def evaluated(self, row: Mapping[str, object]) -> None:
        """An evaluation is done, and its row written."""

    def saved(self, step: int) -> None:
        """A checkpoint of the state after `step` is begun."""

    def end(self, summary: dict[str, object] | None) -> None:
        """This start ends. summary: of a finished run, which it may add to; None: it was stopped, or failed."""

    def weights(self) -> dict[str, Tensor] | None:
        """What is evaluated in place of the model's weights."""
        return None

    def state(self) -> dict[str, object]:
        """What JSON can hold of what it keeps."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that it keeps, copied to host memory; they become NAME.safetensors in a checkpoint."""
        return {}


HOOKS: Registry[type[Hook]] = Registry("hook")
