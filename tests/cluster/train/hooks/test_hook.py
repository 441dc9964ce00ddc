"""A hook of somebody else's, in one file: it sees every moment, adds up over the ranks, changes numbers, and what it
keeps survives SIGKILL to the bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from forked import Command

from cluster.run import checkpoint
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 10, threads: 1, hooks: [drift]}
checkpoint: {every_steps: 2, keep: 9}
log: {curves: false, every_steps: 2}
"""
DRIFT = """
import os, signal
import torch
from cluster.cli import main
from cluster.train.hooks import HOOKS, Hook

def told(*words):
    with open(os.environ["TOLD"], "a") as file:
        print(*words, file=file)

@HOOKS.register("drift")
class Drift(Hook):
    def slots(self, world):
        return {"by_rank": world, "one": 1, "none": 1}

    def begin(self, run, rows):
        super().begin(run, rows)
        self.seen, self.push = 0.0, torch.zeros(10)
        self.tell("begin", run.state.step, len(list(rows)))

    def load(self, state, tensors):
        self.seen = state["seen"]
        self.push.copy_(tensors["push"])

    def share(self, step):
        rank = self.run.rank
        return {"by_rank": [rank + 1.0 if rank == r else 0.0 for r in range(self.run.world)], "one": torch.tensor(1.0)}

    def step(self, step):
        assert step.sums["by_rank"] == [r + 1.0 for r in range(self.run.world)], step.sums
        assert step.sums["one"] == [self.run.world] and step.sums["none"] == [0.0], step.sums
        self.seen = 0.5 * self.seen + step.grad_norm
        self.push = 0.9 * self.push + self.seen
        with torch.no_grad():
            self.run.engine.module.head.bias.add_(1e-4 * self.push)
        step.row["drift"] = self.seen
        if os.environ.get("DIE") == str(step.number):
            os.kill(os.getpid(), signal.SIGKILL)

    def logged(self, step):
        self.tell("logged", step.number)

    def evaluated(self, row):
        self.tell("evaluated", row["step"])

    def saved(self, step):
        self.tell("saved", step)

    def end(self, summary):
        self.tell("end", summary["step"])

    def state(self):
        return {"seen": self.seen}

    def tensors(self):
        return {"push": self.push.clone()}

    def tell(self, *words):
        if self.run.rank == 0:
            told(*words)

main()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_hook_keeps_survives_a_kill_to_the_bit(tmp_path: Path, few_digits: Path, processes: int) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))

    def train(name: str, **more: str) -> int:
        env = {**os.environ, "TOLD": str(tmp_path / f"{name}.txt"), **more}
        words = ("train", "recipe.yaml", f"name={name}", "--processes", processes)
        done = Command(*words, cwd=tmp_path, program=DRIFT, env=env).completed(280)
        assert done.returncode == 0 or "DIE" in more, done.stderr
        return done.returncode

    train("whole")
    assert train("killed", DIE="5") in (-signal.SIGKILL, 1)
    saved = RunFolder(tmp_path / "runs" / "killed").saved_step()
    assert saved in (2, 4)
    train("killed")
    one, other = (RunFolder(tmp_path / "runs" / name) for name in ("whole", "killed"))
    assert one.metrics.path.read_bytes() == other.metrics.path.read_bytes()
    assert [row["drift"] > 0 for row in one.metrics.read() if "loss" in row] == [True] * 3
    (parts, state), (parts2, state2) = (checkpoint.load(f.checkpoints / "step-00000007") for f in (one, other))
    assert state["state"] == state2["state"]
    assert state["state"]["hooks"]["drift"]["seen"] > 0
    assert parts.keys() == parts2.keys() == {"model", "optimizer", "drift"}
    for part, tensors in parts.items():
        assert all(torch.equal(tensor, parts2[part][name]) for name, tensor in tensors.items()), part
    steps = "logged 2|saved 2|logged 4|saved 4|logged 6|saved 6|evaluated 7|saved 7|end 7"
    assert (tmp_path / "whole.txt").read_text().splitlines() == ["begin 0 0", *steps.split("|")]
    assert f"begin {saved} {saved // 2}" in (tmp_path / "killed.txt").read_text().splitlines()
