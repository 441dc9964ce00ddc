"""`log.tensorboard`, read with TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from forked import Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.config import load
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.train.hooks import chosen

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 10, threads: 1}
checkpoint: {every_steps: 2, keep: 9}
log: {curves: false, every_steps: 1, tensorboard: true}
"""
KILLED = """
import os, signal
from cluster.cli import main
from cluster.train import loop

step = loop.Trainer.step
def killed(self, *given):
    if self.state.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *given)
if "DIE" in os.environ:
    loop.Trainer.step = killed
main()
"""


def test_a_killed_run_has_every_row_once(tmp_path: Path, few_digits: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    for more in ({"DIE": "1"}, {}):
        done = Command("train", "recipe.yaml", cwd=tmp_path, program=KILLED, env=os.environ | more).completed(280)
        assert more or done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "runs" / "run")
    read = EventAccumulator(str(folder.path / "tensorboard"))
    read.Reload()
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for row in folder.metrics.read():
        rows["test" if "eval_loss" in row else "train"].append(row)
    for group, key, prefix in (("train", "loss", ""), ("train", "grad_norm", ""), ("test", "accuracy", "eval_")):
        seen = [(event.step, event.value) for event in read.Scalars(f"{group}/{key}")]
        assert seen == [(row["step"], pytest.approx(row[prefix + key])) for row in rows[group]], key
    for key in ("images_per_second", "tflops"):
        assert [event.step for event in read.Scalars(f"speed/{key}")] == list(range(1, 8))
    assert any(tag.startswith("firing/backbone.") for tag in read.Tags()["scalars"])


def test_without_the_package_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    hidden = lambda name, *rest: None if name == "tensorboard" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr("cluster.train.hooks.tensorboard.find_spec", hidden)
    with pytest.raises(RunError, match="log.tensorboard needs tensorboard: pip install tensorboard"):
        chosen(load(None, ["log.tensorboard=true"]))
