"""What a run passes over: told with the samples it was of, up to a limit."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from rich.console import Console

from cluster.config import Config, load
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.run.monitor import Monitor
from cluster.train.scale import LEAST
from cluster.train.skips import left_out, skip_samples
from cluster.train.state import TrainState
from cluster.train.step import Step
from pipelines.errors import DataError
from pipelines.order import Cursor, epoch_order, global_batch
from pipelines.store.tars import TarDataset


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    """Of a single rank."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "meet"), 1), rank=0, world_size=1)
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    with Monitor(folder, Config(), 9, console=Console(file=io.StringIO(), width=200)) as monitor:
        yield monitor
    dist.destroy_process_group()


def step(number: int, scale: float | None = None) -> Step:
    return Step(number=number, epoch=0, lr=0.1, logs=True, images=10, begun=0.0, waited=0.0, scale=scale)


def warned(monitor: Monitor) -> list[dict]:
    file = monitor.run.health.path
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("scale", [None, LEAST, 2 * LEAST])
def test_a_step_that_is_left_out_is_told_with_its_samples(
    monitor: Monitor, few_digits: Path, scale: float | None
) -> None:
    data = TarDataset(few_digits / "train")
    state, cursor = TrainState(2, Cursor(3, 1, 2, 10, data.digest), skipped=4, in_a_row=1), Cursor(3, 1, 2, 10, "")
    config = load(None, ["health.skips=1"])
    left_out(state, step(8, scale), cursor, data, config, monitor)
    [row] = warned(monitor)
    ids = global_batch(epoch_order(cursor, data.shard_of, config.data.window), 2, 10).tolist()
    assert (row["step"], row["epoch"], row["ids"]) == (8, 1, ids) and len(set(ids)) == 10
    assert "step 8 is not finite" in str(row) and "left out (4 so far)" in str(row)
    assert ("the least" in str(row)) == (scale == LEAST)
    state.in_a_row = 2
    with pytest.raises(
        RunError, match=r"^2 steps in a row without .* \(health.skips=1\), the last is 8; .*Lower train"
    ):
        left_out(state, step(8), cursor, data, config, monitor)


def test_damaged_samples_are_noted_once_and_kept_for_the_next_start(monitor: Monitor) -> None:
    state = TrainState(2, Cursor(3, 1, 2, 10, "", damaged=(4,)))
    skip_samples(state, step(3), {7: "sample 7 is damaged", 4: "known"}, 3, monitor)
    assert state.cursor.damaged == (4, 7) and state.cursor.step == 2
    assert [row["sample"] for row in warned(monitor)] == [7]
    skip_samples(state, step(4), {7: "again"}, 3, monitor)
    skip_samples(state, step(5), {}, 0, monitor)  # nothing is new
    assert len(warned(monitor)) == 1
    with pytest.raises(DataError, match=r"^4 training samples are damaged \(data.skips=3\); one: of nine$"):
        skip_samples(state, step(6), {9: "of nine", 8: "of eight"}, 3, monitor)
    assert state.cursor.damaged == (4, 7, 8, 9)
