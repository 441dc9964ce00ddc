"""What a run tells: bytes that no kill changes, lines and bars for people."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cluster.config import Config, load
from cluster.run.folder import RunFolder
from cluster.run.monitor import Monitor
from cluster.run.speed import WARM_UP, Lap

STEPS = 24


def training_row(step: int) -> dict[str, Any]:
    """What the loop gives for `step`, keys in no particular order."""
    row: dict[str, Any] = {"lr": 1e-3 / step, "epoch": step // 12, "step": step}
    return row | {"firing_rate": 0.1 + 0.2 / step, "accuracy": np.float64(step / STEPS), "loss": 1.0 / step}


def train(run: RunFolder, start: int, end: int, seconds: float = 0.5, **options: Any) -> Monitor:
    """Steps start + 1 to end through a monitor that writes no lines, with an evaluation every 12 steps."""
    options.setdefault("console", Console(file=io.StringIO(), width=100))
    config = load(None, ["train.epochs=2"])
    monitor = Monitor(run, config, STEPS, start=start, **options)
    for step in range(start + 1, end + 1):
        lap = Lap(128, seconds, 0.1 * seconds)
        if step % 4 == 0:
            monitor.row(training_row(step))
            monitor.timed(lap)
        monitor.step(step, (step - 1) // 12, lap)
        if step % 12 == 0:
            monitor.evaluation({"step": step, "epoch": step // 12, "eval_loss": 2.0 / step, "eval_accuracy": 0.5})
    return monitor


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    return folder


def test_rows_have_fixed_keys_and_no_clock(run: RunFolder):
    train(run, 0, STEPS)
    rows = run.metrics.read()
    assert [list(r) for r in rows[:4]] == [
        ["step", "epoch", "loss", "lr", "accuracy", "firing_rate"],
        ["step", "epoch", "loss", "lr", "accuracy", "firing_rate"],
        ["step", "epoch", "loss", "lr", "accuracy", "firing_rate"],
        ["step", "epoch", "eval_accuracy", "eval_loss"],
    ]
    assert [r["step"] for r in rows] == [4, 8, 12, 12, 16, 20, 24, 24]


@pytest.mark.parametrize("killed", [1, 4, 11, 12, 13, 23])
def test_a_killed_run_that_goes_on_writes_the_same_bytes(run: RunFolder, tmp_path: Path, killed: int):
    train(run, 0, STEPS, seconds=0.3)
    other = RunFolder(tmp_path / "other")
    other.open(Config())
    train(other, 0, killed)
    size = other.metrics.size()  # what a checkpoint keeps
    train(other, killed, min(STEPS, killed + 7))  # steps that are lost again
    other.metrics.truncate(size)
    train(other, killed, STEPS)
    assert other.metrics.path.read_bytes() == run.metrics.path.read_bytes()
    assert len(other.metrics.read()) == 8


def test_other_ranks_write_nothing(run: RunFolder):
    before = sorted(p.name for p in run.path.iterdir())
    console = Console(file=io.StringIO())
    monitor = train(run, 0, STEPS, rank=1, console=console)
    monitor.finish({"accuracy": 0.5})
    monitor.say("hello")
    assert sorted(p.name for p in run.path.iterdir()) == before
    assert console.file.getvalue() == ""


def test_lines_where_there_is_no_terminal(run: RunFolder):
    console = Console(file=io.StringIO(), width=40)
    train(run, 0, STEPS, console=console, line_seconds=0.0)
    lines = console.file.getvalue().splitlines()
    memory = r"\d+\.\d\d GiB"
    assert re.fullmatch(rf"step 1/24, epoch 1/2, 256 images/s, {memory}", lines[0])
    assert re.fullmatch(
        r"step 4/24, epoch 1/2, loss 0\.25, accuracy 16\.67 %, learning rate 0\.00025, firing rate 0\.15, "
        rf"256 images/s, data wait 10%, {memory}, 10 s left",
        lines[3],
    )
    assert "step 12: test accuracy 50.00 %, loss 0.1667" in lines
    assert re.match(r"step 13/24, epoch 2/2, ", lines[13])
    assert any(line.startswith("step 24/24, ") for line in lines)


def test_the_time_that_is_left_is_told_when_it_is_known(run: RunFolder):
    """Not from the steps that a start begins with, of which one may take as long as all others together."""
    console = Console(file=io.StringIO(), width=300)
    monitor = Monitor(run, Config(), 103, console=console, line_seconds=0.0)
    for step, seconds in enumerate([60.0] * WARM_UP + [0.5] * 2, 1):
        monitor.step(step, 0, Lap(128, seconds))
        assert run.said()["seconds_left"] == (None if step <= WARM_UP else 0.5 * (103 - step))
    lines = console.file.getvalue().splitlines()
    assert [line.rpartition(", ")[2] for line in lines[WARM_UP:]] == ["50 s left", "49 s left"]
    assert not any("left" in line for line in lines[:WARM_UP])


def test_lines_are_seconds_apart_but_the_last_is_written(run: RunFolder):
    console = Console(file=io.StringIO(), width=200)
    train(run, 0, STEPS, console=console, line_seconds=1000.0)
    lines = [line.split(",")[0] for line in console.file.getvalue().splitlines() if "images/s" in line]
    assert lines == ["step 24/24"]


def test_a_bar_on_a_terminal(run: RunFolder):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with train(run, 12, STEPS, console=console):
        pass
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())
    lines = [line.rstrip() for line in re.split("[\r\n]+", shown)]
    assert any(re.fullmatch(r"epoch 2/2 step 24/24 ━+ 0 s left", line) for line in lines)
    assert "loss 0.04167, accuracy 100.00 %, learning rate 4.167e-05, firing rate 0.1083" in lines
    assert any(re.fullmatch(r"256 images/s, data wait 10%, \d+\.\d\d GiB", line) for line in lines)
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_the_end_is_a_summary_and_a_line(run: RunFolder):
    console = Console(file=io.StringIO(), width=300)
    monitor = train(run, 12, STEPS, console=console)
    summary = {"accuracy": 0.875, "step": STEPS, "epochs": 2, "train_seconds": 12.0, "images_per_second": 256.0}
    monitor.finish(summary)
    monitor.close()
    assert run.summary() == summary
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"finished {run.path}: accuracy 87.50 %, step 24, epochs 2, train 12 s, 256 images/s"


def test_curves_are_drawn_now_and_then_and_at_the_end(run: RunFolder):
    curves = run.figure("curves")
    monitor = train(run, 0, 12, line_seconds=1000.0)
    assert not curves.exists()
    monitor.finish({"step": 12})
    at_the_end = curves.read_bytes()
    curves.unlink()
    train(run, 12, STEPS, line_seconds=0.0)
    assert curves.read_bytes() not in (b"", at_the_end)


def test_a_run_may_draw_none(run: RunFolder):
    config = load(None, ["log.curves=false"])
    monitor = Monitor(run, config, STEPS, console=Console(file=io.StringIO()), line_seconds=0.0)
    monitor.row({"step": 1, "epoch": 0, "loss": 1.0, "lr": 0.1})
    monitor.finish({"step": 1})
    assert not run.figure("curves").exists() and run.summary_file.exists()


def test_a_loss_that_is_not_a_number_is_null(run: RunFolder):
    monitor = Monitor(run, Config(), STEPS, console=Console(file=io.StringIO()), line_seconds=0.0)
    monitor.row({"step": 1, "epoch": 0, "loss": float("nan"), "lr": 0.1})
    assert json.loads(run.metrics.path.read_text())["loss"] is None
    monitor.draw()
