"""`train.hooks=[health]`: what its columns say of units whose firing is known, and that a kill changes no row."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.config import Config
from cluster.run.folder import RunFolder
from cluster.train.hooks.health import FLOOR, WINDOW, Health
from cluster.train.step import Step
from tdformer import create_model
from tdformer.measure import Firing

RECIPE = """\
name: run
model: {name: quickstart, width: 32, heads: 2, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 2, global_batch: 10, micro_batch: 5, threads: 1, hooks: [health]}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1, tensorboard: true}
"""
KILLED = """
import os, signal
from cluster.cli import main
from cluster.train import loop

step = loop.Trainer.step
def killed(self, *given):
    if self.state.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *given)
if "DIE" in os.environ:
    loop.Trainer.step = killed
main()
"""


class Told:
    """A run's monitor, as far as the hook looks at it, with what it was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def warn(self, line: str, step: int, epoch: int) -> None:
        self.lines.append((step, line))


def begun(told: Told, rank: int = 0) -> Health:
    hook = Health(Config())
    model = create_model("quickstart", width=32, heads=2, time_steps=1)
    hook.begin(SimpleNamespace(rank=rank, monitor=told, engine=SimpleNamespace(module=model)), [])  # type: ignore[arg-type] # all that it looks at
    return hook


def unit(*channels: float) -> Firing:
    rates = torch.tensor(channels)
    return Firing(float(rates.mean()), float((rates == 0).float().mean()), rates)


def stepped(hook: Health, number: int, **units: Firing) -> dict[str, Any]:
    step = Step(number, 0, 0.1, True, 8, 0.0, 0.0, firing=units)
    with hook.during(step):
        pass
    hook.step(step)
    return step.row


def life(number: int) -> dict[str, Firing]:
    """One unit keeps its rate, one dies after step 15, one never fires; a channel of the first fires at step 3 only."""
    return {
        "steady": unit(0.5, 0.1 if number == 3 else 0.0),
        "dying": unit(0.2, 0.2) if number <= 15 else unit(0.0, 0.0),
        "never": unit(0.0),
    }


def test_columns_and_the_one_line_of_a_death() -> None:
    told = Told()
    hook, rows = begun(told), {}
    for number in range(1, 41):
        rows[number] = stepped(hook, number, **life(number))
    assert all(row["information"] is None for row in rows.values())  # one time step
    assert [n for n, row in rows.items() if row["dead"] is None] == list(range(1, WINDOW))
    assert [n for n, row in rows.items() if row["drift"] is None] == list(range(1, WINDOW + 1))
    assert rows[12]["dead"] == pytest.approx(1 / 5) and rows[13]["dead"] == pytest.approx(2 / 5)
    assert rows[24]["dead"] == pytest.approx(2 / 5) and rows[25]["dead"] == pytest.approx(4 / 5)
    assert rows[16]["drift_unit"] == "dying"
    assert rows[16]["drift"] == pytest.approx(torch.tensor(FLOOR / (0.2 + FLOOR)).log2().item())
    assert abs(rows[15]["drift"]) < abs(rows[25]["drift"]) < abs(rows[16]["drift"]) and rows[40]["drift"] == 0
    ((step, line),) = told.lines
    assert step == 25 and line.startswith("dying died: it did fire, and not in the last 10 logged steps; begin again")


def test_what_it_keeps_is_all_that_it_needs() -> None:
    told, told2 = Told(), Told()
    whole, parted = begun(told), begun(told2)
    for number in range(1, 31):
        kept = parted.tensors()
        parted = begun(told2)
        if kept:
            parted.load({}, kept)
        assert stepped(whole, number, **life(number)) == stepped(parted, number, **life(number))
    assert told.lines == told2.lines and len(told.lines) == 1


def test_it_is_the_first_ranks_and_of_logged_steps() -> None:
    other = begun(Told(), rank=1)
    assert stepped(other, 1, **life(1)) == {} == other.tensors()
    first = begun(Told())
    silent = Step(1, 0, 0.1, False, 8, 0.0, 0.0)
    with first.during(silent):
        pass
    first.step(silent)
    assert silent.row == {} == first.tensors()


def test_a_killed_run_writes_the_same_rows(tmp_path: Path, few_digits: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))

    def train(name: str, **more: str) -> int:
        words = ("train", "recipe.yaml", f"name={name}")
        done = Command(*words, cwd=tmp_path, program=KILLED, env=os.environ | more).completed(280)
        assert done.returncode == 0 or more, done.stderr
        return done.returncode

    train("whole")
    assert train("killed", DIE="1") in (-signal.SIGKILL, 1)
    train("killed")
    whole, killed = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert whole.metrics.path.read_bytes() == killed.metrics.path.read_bytes()
    rows = [row for row in killed.metrics.read() if "dead" in row]
    assert len(rows) == 14 and [row["dead"] is None for row in rows] == [True] * 9 + [False] * 5
    assert 0 < rows[-1]["dead"] < 1 and rows[-1]["drift_unit"].startswith("backbone.")
    seen = [row["information"] for row in rows]
    assert max(seen) > 0
    read = EventAccumulator(str(killed.path / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/dead")] == list(range(10, 15))
    assert [event.value for event in read.Scalars("train/information")] == pytest.approx(seen, abs=1e-6)
    assert "train/drift_unit" not in read.Tags()["scalars"]
