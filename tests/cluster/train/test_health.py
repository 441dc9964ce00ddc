"""Steps that are not finite, hangs, slow ranks and silent layers: each is seen, told, and ends well."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from forked import Command, torchrun

from cluster.build.shards import write_shards
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from pipelines.order import permutation

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 200, micro_batch: 50, threads: 1, ema_decay: 0.9}
checkpoint: {every_steps: 1, keep: 20}
log: {curves: false, every_steps: 1}
"""
PROGRAM = """
import sys, time
import tdformer
from cluster.train import feed, loop
from cluster.config import load
from cluster import cli
from cluster.jobs import processes

trouble, words = sys.argv[1], sys.argv[2:]
loss, step, inputs = tdformer.segment_loss, loop.Trainer.step, feed.Feed.inputs
here = dict(rank=0, step=0)

def noted(self, batches, waited):
    here.update(rank=self.rank, step=self.state.step + 1)
    return step(self, batches, waited)

def disturbed(self, *given):
    if trouble == "slow" and here["rank"] == 1:
        time.sleep(1)  # beside which the noise of a busy machine is little
    if trouble == "hang" and here["rank"] == 1 and here["step"] == 3:
        time.sleep(120)
    return inputs(self, *given)

def poisoned(*args):
    once = trouble == "once" and here["rank"] == 1 and here["step"] == 3
    return loss(*args) * (float("inf") if once or (trouble == "ever" and here["step"] > 2) else 1)

loop.Trainer.step, feed.Feed.inputs = noted, disturbed
tdformer.segment_loss = poisoned
sys.argv = ["tdformer", "train", "recipe.yaml", *words]
cli.main()
"""


TIMEOUT = 8.0
"""Seconds of `engine.timeout_minutes` where a write is waited for; other things take longer, beside other tests."""
SLOW = f"""
import datetime, os, signal, sys, threading, time
import torch.distributed as dist
from cluster.train import loop
from cluster import cli

trouble, words = sys.argv[1], sys.argv[2:]
step, saved, fsync = loop.Trainer.step, loop.Trainer.saved, os.fsync

def steps(self, *given):
    if trouble == "leave":
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *given)

def limit(self, seconds):
    self.watchdog.seconds = seconds
    self.watchdog.alive()
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=seconds))

def waits(self):
    limit(self, {TIMEOUT})
    saved(self)
    limit(self, 100)

def slow(fd):
    if threading.current_thread().name == "checkpoint":
        time.sleep(1000 if trouble == "stuck" else {TIMEOUT} / 4)
    fsync(fd)

loop.Trainer.step, loop.Trainer.saved, os.fsync = steps, waits, slow
sys.argv = ["tdformer", "train", "recipe.yaml", *words]
cli.main()
"""


def start(folder: Path, ranks: int, trouble: str, *words: str, program: str = PROGRAM) -> list[tuple[int, str, str]]:
    """Train with `ranks` processes and a trouble; returns each one's exit code, stdout and stderr."""
    if not (folder / "shards").exists():
        write_shards("digits", folder / "shards", samples_per_shard=500)
        (folder / "recipe.yaml").write_text(RECIPE)
    alone = [Command(trouble, *words, cwd=folder, program=program)] if ranks == 1 else []
    running = alone or torchrun(ranks, trouble, *words, cwd=folder, program=program)
    ended = [process.completed() for process in running]
    return [(done.returncode, done.stdout, done.stderr) for done in ended]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_step_that_is_not_finite_is_left_out_on_all_ranks(tmp_path: Path, stage: int) -> None:
    """Rank 1 has an infinite loss in step 3: nothing moves, on no rank, and training goes on."""
    done = start(tmp_path, 2, "once", f"engine.zero_stage={stage}", "train.clip_grad=1.0")
    assert [code for code, _, _ in done] == [0, 0], done
    folder = RunFolder(tmp_path / "runs" / "run")
    parts = {step: checkpoint.load(folder.checkpoints / f"step-{step:08d}")[0] for step in (2, 3, 4)}
    for part, tensors in parts[2].items():
        for name, value in tensors.items():
            assert torch.equal(value, parts[3][part][name]), (part, name)
    assert any(not torch.equal(v, parts[4]["model"][k]) for k, v in parts[2]["model"].items())
    rows = [row for row in folder.metrics.read() if "lr" in row]
    assert [row.get("skipped") for row in rows] == [None, None, 1, 1, 1, 1, 1]
    assert rows[2]["loss"] is None and rows[2]["grad_norm"] is None and rows[3]["loss"] > 0
    (warning,) = (row for row in folder.health.read() if "ids" in row)
    order = permutation(0, 0, 1437)
    assert warning["step"] == 3 and warning["ids"] == order[400:600].tolist()
    assert folder.status()["warnings"] >= 1 and "left out (1 so far)" in done[0][1]


def test_too_many_of_them_end_the_run_and_it_goes_on_from_before(tmp_path: Path) -> None:
    ((code, out, err),) = start(tmp_path, 1, "ever", "health.skips=2", "checkpoint.every_steps=2")
    assert code == 2 and err.count("\n") == 1
    assert "3 steps in a row without a finite loss and gradient (health.skips=2), the last is 5" in err
    folder = RunFolder(tmp_path / "runs" / "run")
    status = folder.status()
    assert status["state"] == "failed" and "health.skips=2" in status["reason"]
    assert [row["step"] for row in folder.health.read() if "ids" in row] == [3, 4, 5]
    ((code, out, err),) = start(tmp_path, 1, "none", "health.skips=2")
    assert code == 0 and "goes on from step 4 of 7" in out
    assert [row.get("skipped") for row in folder.metrics.read() if "lr" in row] == [None, None, 1, 2, 2, 2, 2]


def test_a_hang_ends_with_the_stacks_of_every_rank(tmp_path: Path) -> None:
    done = start(tmp_path, 2, "hang", "engine.timeout_minutes=0.3")  # longer than a start beside other tests
    assert all(code for code, _, _ in done)
    assert "Timeout" in done[1][2] and "in disturbed" in done[1][2], done[1][2]
    # Its own watchdog, or the end of the connection that it waited on: rank 1's may bark first.
    assert ("Timeout" in done[0][2] or "Connection closed" in done[0][2]) and "in step" in done[0][2], done[0][2]


def test_a_write_may_take_longer_than_a_step_may(tmp_path: Path) -> None:
    """Ten syncs, each a quarter of what a collective may take, are waited for before a run leaves."""
    done = start(tmp_path, 2, "leave", "train.global_batch=400", "checkpoint.every_steps=1000", program=SLOW)
    assert [code for code, _, _ in done] == [143, 143], done
    folder = RunFolder(tmp_path / "runs" / "run")
    assert folder.saved_step() == 1 and folder.status()["state"] == "saved"
    assert checkpoint.newest_good(folder.checkpoints, pytest.fail) is not None


def test_a_write_that_stands_still_ends_the_run(tmp_path: Path) -> None:
    done = start(tmp_path, 2, "stuck", "train.global_batch=400", "checkpoint.every_steps=1", program=SLOW)
    assert all(code for code, _, _ in done), done
    assert any("Timeout" in err or "Timed out" in err for _, _, err in done), done
    assert all("in saved" in err for _, _, err in done), done
    assert RunFolder(tmp_path / "runs" / "run").saved_step() is None


def test_a_slow_rank_is_named(tmp_path: Path) -> None:
    done = start(tmp_path, 3, "slow", "train.global_batch=300", "train.epochs=1")
    assert [code for code, _, _ in done] == [0, 0, 0], done
    warnings = [row["warning"] for row in RunFolder(tmp_path / "runs" / "run").health.read()]
    slow = [w for w in warnings if w.startswith("rank ")]
    assert len(slow) == 1 and slow[0].startswith(f"rank 1 on {socket.gethostname()} takes "), warnings
