"""One optimizer step: what it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipelines.order import Cursor
from tdformer.measure import Firing
from tdformer.norm import StepStatistics

from ..run.speed import Lap
from .reading import Reading


@dataclass
class Step:
    """number: from 1, in the whole run; epoch: from 0; logs: whether it ends with a row of metrics.jsonl; images: of
    the global batch; begun: `time.perf_counter()` when the wait for its images began, which took `waited` seconds;
    scale: what its loss is multiplied by for backward, with fp16.

    What the step fills in: applied: whether the weights moved, which they do not after a loss or gradient that is not
    finite; overflow: whether that was for fp16's range alone, so that a lower scale mends it; grad_norm: before
    clipping; worked: seconds of this rank's own work, which a GPU tells a step later; loss: the mean since the last
    row, where it logs; sums: over the ranks, by the names of the slots; row: for metrics.jsonl, a function of the steps
    alone; firing: of each unit, where it logs; lap: its time; speed: the row for speed.jsonl, where it logs.
    """

    number: int
    epoch: int
    lr: float
    logs: bool
    images: int
    begun: float
    waited: float
    scale: float | None = None
    applied: bool = True
    overflow: bool = False
    grad_norm: float | None = None
    worked: float = 0.0
    loss: float | None = None
    sums: Mapping[str, list[float]] = field(default_factory=dict)
    row: dict[str, object] = field(default_factory=dict)
    firing: Mapping[str, Firing] = field(default_factory=dict)
    lap: Lap = field(default_factory=Lap)
    speed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Launched:
    """A step that the device was asked for, and what is left to be done when its numbers are known.

    cursor: where its batch was; numbers: its sums, whether it was applied, and the norm; statistics: of BatchNorm, to
    be moved by `means`; damaged: samples of this rank that were not read, with what is wrong with each.
    """

    step: Step
    cursor: Cursor
    numbers: Reading
    statistics: StepStatistics
    means: Tensor
    damaged: Mapping[int, str]
