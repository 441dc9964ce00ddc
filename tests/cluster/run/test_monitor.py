"""What a run tells: bytes that no kill changes, lines and bars for people, wandb for real."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from cluster.config import Config
from cluster.run.folder import RunFolder
from cluster.run.monitor import Monitor

STEPS = 24


def training_row(step: int) -> dict[str, Any]:
    """What the loop gives for `step`: measurements every fourth, keys in no particular order."""
    row: dict[str, Any] = {"lr": 1e-3 / step, "epoch": step // 12, "step": step}
    if step % 4 == 0:
        row |= {"firing_rate": 0.1 + 0.2 / step, "accuracy": np.float64(step / STEPS), "loss": 1.0 / step}
    return row


def train(run: RunFolder, start: int, end: int, seconds: float = 0.5, **options: Any) -> Monitor:
    """Steps start + 1 to end through a monitor that writes no lines, with an evaluation every 12 steps."""
    options.setdefault("console", Console(file=io.StringIO(), width=100))
    monitor = Monitor(run, Config(), STEPS, start=start, **options)
    for step in range(start + 1, end + 1):
        monitor.step(training_row(step), images=128, seconds=seconds, waited=0.1 * seconds)
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
    assert run.speed.read()[0] == {
        "step": 4,
        "images": 512,
        "seconds": 2.0,
        "images_per_second": 256.0,
        "data_wait_seconds": 0.2,
    }


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
    assert lines[0] == "step 1/24, 256 images/s, 12 s left"
    assert lines[3] == (
        "step 4/24, loss 0.25, accuracy 16.67 %, firing rate 0.15, 256 images/s, data wait 10%, 10 s left"
    )
    assert "step 12: test accuracy 50.00 %, loss 0.1667" in lines
    assert any(line.startswith("step 24/24, ") for line in lines)


def test_lines_are_seconds_apart_but_the_last_is_written(run: RunFolder):
    console = Console(file=io.StringIO(), width=200)
    train(run, 0, STEPS, console=console, line_seconds=1000.0)
    assert [line.split(",")[0] for line in console.file.getvalue().splitlines() if "left" in line] == [
        "step 24/24",
    ]


def test_a_bar_on_a_terminal(run: RunFolder):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with train(run, 12, STEPS, console=console):
        pass
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())
    assert "24/24" in shown
    assert "loss 0.04167, accuracy 100.00 %, firing rate 0.1083, 256 images/s, data wait 10%" in shown
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_the_summary_has_the_speed_of_all_starts(run: RunFolder):
    train(run, 0, 12)
    console = Console(file=io.StringIO(), width=300)
    monitor = train(run, 12, STEPS, console=console)
    monitor.finish({"accuracy": 0.875, "step": STEPS, "epochs": 2})
    monitor.close()
    assert run.summary() == {
        "accuracy": 0.875,
        "step": 24,
        "epochs": 2,
        "train_seconds": 12.0,
        "images_per_second": 256.0,
    }
    last = console.file.getvalue().splitlines()[-1]
    assert last == f"finished {run.path}: accuracy 87.50 %, step 24, epochs 2, train 12 s, 256 images/s"


def test_curves_are_drawn_from_the_metrics(run: RunFolder):
    monitor = Monitor(run, Config(), STEPS, console=Console(file=io.StringIO()))
    monitor.draw()
    empty = np.asarray(Image.open(run.curves).convert("RGB")).astype(int)
    train(run, 0, STEPS)
    drawn = np.asarray(Image.open(run.curves).convert("RGB")).astype(int)
    assert drawn.shape == empty.shape == (660, 1100, 3)
    blue = (abs(drawn - [31, 119, 180]).sum(2) < 30).sum(), (abs(empty - [31, 119, 180]).sum(2) < 30).sum()
    assert blue[0] > 500 > blue[1]


def test_a_loss_that_is_not_a_number_is_null(run: RunFolder):
    monitor = Monitor(run, Config(), STEPS, console=Console(file=io.StringIO()), line_seconds=0.0)
    monitor.step({"step": 1, "epoch": 0, "loss": float("nan"), "lr": 0.1}, images=1, seconds=0.0, waited=0.0)
    assert json.loads(run.metrics.path.read_text())["loss"] is None
    monitor.draw()


WANDB = """
import sys
from cluster.config import load
from cluster.run.monitor import Monitor
from cluster.run import RunFolder

mode, start = sys.argv[1], int(sys.argv[2])
config = load(None, [f"log.wandb={mode}", "log.wandb_project=trial"])
run = RunFolder("run")
run.open(config)
with Monitor(run, config, 4, start=start) as monitor:
    for step in range(start + 1, start + 3):
        row = {"step": step, "epoch": 0, "loss": 0.12345 + step, "lr": 0.1}
        monitor.step(row, images=8, seconds=0.1, waited=0.0)
    if start:
        monitor.finish({"step": 4, "accuracy": 0.625})
"""


def test_wandb_offline_is_one_run_for_all_starts(tmp_path: Path, python: Any, monkeypatch: pytest.MonkeyPatch):
    # `online` logs offline where nobody answers, and without a key; HOME is empty, so there is none.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    outputs = []
    for key, start in (("0123456789" * 4, "0"), ("", "2")):
        monkeypatch.setenv("WANDB_API_KEY", key)
        process = python(WANDB, "online", start)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        outputs.append(out)
    reasons = "Failed to authenticate with http://127.0.0.1:9", "wandb has no key here: logging offline"
    assert all(reason in output for reason, output in zip(reasons, outputs, strict=True))
    name = RunFolder(tmp_path / "run").wandb_id()
    files = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 2
    for file, losses in zip(files, (("1.12345", "2.12345"), ("3.12345", "4.12345")), strict=True):
        content = file.read_bytes()
        assert all(value.encode() in content for value in ("loss", "trial", *losses))
    assert b"0.625" in files[1].read_bytes()
    assert all(b"start.commit" in file.read_bytes() for file in files)
