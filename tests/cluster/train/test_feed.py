"""Batches that come one step ahead, as to a GPU, change no bit of a run, nor of one that is stopped and goes on."""

from __future__ import annotations

import os
from pathlib import Path

from forked import Command
from same_run import assert_equal

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1}
data: {dataset: digits, root: SHARDS, workers: 1, augment: {flip: 0.5, erasing: 0.6, erasing_mode: pixel},
       mixup: 0.4, cutmix: 1.0}
train: {epochs: 1, global_batch: 12, micro_batch: 6, threads: 1, ema_decay: 0.9, label_smoothing: 0.1}
log: {curves: false, every_steps: 1}
"""
AHEAD = """
import os, signal, sys
from cluster import cli
from cluster.train import evaluate, feed, loop
from pipelines import delivery

class Copies:
    def send(self, batches):
        print("sent", *(batches[0].mixing is not None, batches[0].drawn is not None), flush=True)
        return [delivery._each(batch, lambda x: x.clone()) for batch in batches]
    def take(self, batches):
        pass

feed.lane = evaluate.lane = lambda device: Copies()
step = loop.Trainer.step

def stopped(self, *given):
    print("begins", self.state.step + 1, flush=True)
    if os.environ.get("STOP") and self.state.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *given)

loop.Trainer.step = stopped
sys.argv = ["tdformer", "train", "recipe.yaml", "--processes", "1", *sys.argv[1:]]
cli.main()
"""


def test_one_step_ahead_is_the_same_run_stopped_or_not(tmp_path: Path, few_digits: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    plain = Command("train", "recipe.yaml", "--processes", "1", "runs_dir=plain", cwd=tmp_path).completed()
    assert plain.returncode == 0, plain.stderr
    stop = os.environ | {"STOP": "1"}
    halted = Command("runs_dir=ahead", cwd=tmp_path, env=stop, program=AHEAD).completed()
    told = [line for line in halted.stdout.splitlines() if line.startswith(("sent", "begins"))]
    assert told[:4] == ["sent True True", "begins 1", "sent True True", "begins 2"], halted.stdout + halted.stderr
    assert "begins 2" in told and "begins 3" not in told
    done = Command("runs_dir=ahead", cwd=tmp_path, program=AHEAD).completed()
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("begins")]
    assert steps == [f"begins {number}" for number in (3, 4, 5)]
    assert_equal(tmp_path / "plain", tmp_path / "ahead")
