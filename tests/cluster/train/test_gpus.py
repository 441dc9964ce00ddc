"""Whole runs on GPUs, one and two: killed and gone on with they end as if nothing had been. The GPUs may be emulated
(`tests/emulated.py`)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from emulated import gpus
from forked import torchrun
from same_run import assert_equal

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, width: 48, depths: [1, 1, 1], heads: 2}
data: {dataset: digits, root: SHARDS, share: 0.35, augment: {crop_padding: 1, flip: 0.5}, mixup: 0.2, cutmix: 0.5}
engine: {device: cuda}
train: {epochs: 2, global_batch: 8, clip_grad: 0.5, ema_decay: 0.9, threads: 1}
checkpoint: {every_steps: 2, every_minutes: null, keep: 4}
log: {curves: false, every_steps: 3}
"""
KILLS = """\
import os, signal
from cluster.cli import main
from cluster.train import loop

step = loop.Trainer.step

def noted(trainer, *given):
    if trainer.state.step + 1 == int(os.environ.get("KILLED", 0)):
        trainer.saved()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, *given)

loop.Trainer.step = noted
main()
"""
CASES = {
    "one": (1, ("train.hooks=[energy]", "recompute.policy=unit", "train.micro_batch=4", "data.workers=2")),
    "frozen": (2, ("train.freeze=[backbone]", "engine.zero_stage=2", "train.precision=bf16")),
    "norm over ranks": (2, ("train.norm_batch=8", "train.micro_batch=4", "engine.zero_stage=3")),
}
"""By how many GPUs they need."""


@pytest.mark.gpu
@pytest.mark.parametrize("case", [pytest.param(case, marks=gpus(count)) for case, (count, _) in CASES.items()])
def test_a_killed_run_ends_as_if_it_had_not_been(case: str, few_digits: Path, tmp_path: Path) -> None:
    count, words = CASES[case]
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))

    def codes(runs: str, killed: int = 0) -> list[int]:
        given, env = ("train", "recipe.yaml", f"runs_dir={runs}", *words), os.environ | {"KILLED": str(killed)}
        started = torchrun(count, *given, cwd=tmp_path, env=env, program=KILLS)
        ended = [command.completed() for command in started]
        print(*(part for done in ended for part in (done.stdout, done.stderr)))
        return [done.returncode for done in ended]

    assert codes("whole") == [0] * count
    assert codes("killed", killed=6) == [-signal.SIGKILL] * count
    assert codes("killed") == [0] * count
    assert_equal(tmp_path / "whole", tmp_path / "killed")
