"""What a run passes over, up to a limit: steps that are not finite, samples that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipelines.errors import DataError
from pipelines.order import Cursor, epoch_order, global_batch
from pipelines.samples import Samples

from ..config import Config
from ..errors import RunError
from ..run.monitor import Monitor
from .agreement import of_all
from .scale import LEAST
from .state import TrainState
from .step import Step


def left_out(state: TrainState, step: Step, cursor: Cursor, data: Samples, config: Config, monitor: Monitor) -> None:
    """Tell of `step`, at `cursor`, whose loss or gradient was not finite, with the ids of its batch. Raises RunError,
    on all ranks, after too many of them in a row."""
    limit = config.health.skips
    order = epoch_order(cursor, data.shard_of, config.data.window)
    ids = global_batch(order, cursor.step, cursor.global_batch)
    least = f" at loss scale {LEAST:g}, the least" if step.scale == LEAST else ""
    line = f"the loss or the gradient of step {step.number} is not finite{least}: left out ({state.skipped} so far)"
    monitor.warn(line, step=step.number, epoch=cursor.epoch, ids=ids.tolist())
    if state.in_a_row > limit:
        raise RunError(
            f"{state.in_a_row} steps in a row without a finite loss and gradient (health.skips={limit}), the last "
            f"is {step.number}; their samples are in {monitor.run.health.path}. Lower train.lr or set "
            "train.clip_grad; the run goes on from its last checkpoint"
        )


def skip_samples(state: TrainState, step: Step, own: Mapping[int, str], limit: int, monitor: Monitor) -> None:
    """Note the samples that some rank could not read in a step, so that a run that goes on passes over the same ones.
    own: what this rank says of each of its. Raises DataError, on all ranks, when there are more than `limit`; all call
    it together."""
    found = of_all(dict(own))
    new = {i: line for one in found for i, line in one.items() if i not in state.cursor.damaged}
    damaged = tuple(sorted({*state.cursor.damaged, *new}))
    state.cursor = replace(state.cursor, damaged=damaged)
    for i, line in sorted(new.items()):
        monitor.warn(f"sample {i} is skipped: {line}", step=step.number, sample=i)
    if new and len(damaged) > limit:
        raise DataError(f"{len(damaged)} training samples are damaged (data.skips={limit}); one: {new[max(new)]}")
