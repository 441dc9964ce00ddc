"""A run that is asked to leave after a step that was left out, loses its last checkpoint and goes on, against one that
is not: and what the steps of both were."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from firing import few_digits
from observed import Observed, observe
from same_run import assert_equal

from cluster.config import load
from cluster.run import checkpoint

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, augment: {crop_padding: 1}}
train:
  {epochs: 2, global_batch: 40, micro_batch: 20, lr: 1.0e-6, min_lr: 0, clip_grad: 0.05, ema_decay: 0.9, threads: 1}
checkpoint: {every_steps: 1, every_minutes: null, keep: 20}
log: {curves: false, every_steps: 1}
"""
LEFT_OUT, LEFT = 2, 5


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Observed]:
    folder = tmp_path_factory.mktemp("steps")
    few_digits(folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE)

    def start(runs: str, **trouble: int) -> Observed:
        words = [f"runs_dir={folder / runs}", f"data.root={folder / 'shards'}"]
        return observe(load(folder / "recipe.yaml", words), **trouble)

    return start


def test_left_after_a_step_that_was_left_out_and_resumed(start: Callable[..., Observed]) -> None:
    whole, left = start("whole", poison=LEFT_OUT), start("left", poison=LEFT_OUT, leave=LEFT)
    assert [len(run.steps) for run in (whole, left)] == [6, LEFT]
    folder = left.folder
    assert (folder.checkpoints / "latest").read_text() == f"step-{LEFT:08d}\n"
    assert (folder.checkpoints / "best").read_text() == "step-00000003\n"  # the last one that was evaluated
    shutil.rmtree(checkpoint.complete(folder.checkpoints)[0])
    resumed = start("left")
    assert len(resumed.steps) == 6 - LEFT + 1
    assert_equal(whole.folder.path.parent, folder.path.parent)

    skipped = whole.steps[LEFT_OUT - 1]
    following = whole.steps[LEFT_OUT].before  # running statistics too
    assert all(torch.equal(value, following[name]) for name, value in skipped.before.items())
    state = checkpoint.load(checkpoint.complete(folder.checkpoints)[0])[1]["state"]
    assert state["best_accuracy"] == max(row["eval_accuracy"] for row in whole.rows if "eval_accuracy" in row) > 0
    assert [step.counted for step in (*left.steps, *resumed.steps)] == [{n} for n in (1, 1, 2, 3, 4, 4, 5)]
    assert [row.get("skipped") for row in whole.rows if "lr" in row] == [None] + [1] * 5


def test_the_best_one_is_the_last_of_equals(start: Callable[..., Observed]) -> None:
    run = start("best")
    accuracies = [row["eval_accuracy"] for row in run.rows if "eval_accuracy" in row]
    assert len(accuracies) == 2 and len(set(accuracies)) == 1  # the learning rate is too low to change a prediction
    newest = checkpoint.complete(run.folder.checkpoints)[0]
    assert (run.folder.checkpoints / "best").read_text() == f"{newest.name}\n" == "step-00000006\n"


def test_gradients_are_clipped_without_zero(start: Callable[..., Observed]) -> None:
    run = start("clipped")
    for step, row in zip(run.steps, (row for row in run.rows if "lr" in row), strict=True):
        norm = torch.stack([value.square().sum() for value in step.gradients.values()]).sum().sqrt()
        assert row["grad_norm"] > 0.1
        assert float(norm) == pytest.approx(0.05, rel=1e-3)
