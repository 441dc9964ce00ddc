"""Runs as jobs of this machine, through submitit's local executor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.build.shards import write_shards
from cluster.jobs import status as jobs
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data: {dataset: digits, root: shards}
train: {epochs: 8, global_batch: 160, micro_batch: 40, threads: 1, eval_every_epochs: 8}
checkpoint: {every_steps: 4}
log: {curves: false, every_steps: 1}
"""
WORDS = ("recipe.yaml", "--where", "local", "--processes-per-node", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    yield RunFolder(tmp_path / "runs" / "run")
    send(signal.SIGKILL, tmp_path)


def send(number: int, root: Path) -> None:
    """A signal to every process of the jobs that were launched in folders below `root`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{root}/".encode() in words and b"/logs" in words:
            os.kill(int(entry.name), number)


def wait(holds: Callable[[], Any], folder: RunFolder) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        logs = [p.read_text() for p in folder.path.glob("logs/*.out")]
        assert time.monotonic() < deadline, "\n".join(map(str, [folder.status(), *logs]))
        time.sleep(0.1)


@pytest.mark.timeout(600)
def test_runs_in_the_background_of_this_machine_and_where_they_are(cli: Any, folder: RunFolder) -> None:
    """One is killed, moved, stopped and goes on to its end; a copy of it is a run of its own, and is moved while it
    runs."""
    runs = folder.path.parent

    def rows() -> dict[str, dict[str, Any]]:
        return {row["run"]: row for row in map(json.loads, cli("status", "--json").stdout.splitlines())}

    def ended(run: RunFolder) -> None:
        wait(lambda: jobs.existing(run.path).state() == "ENDED", run)

    def refused(*words: object) -> str:
        done = cli(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    launched = cli("launch", *WORDS)
    assert launched.returncode == 0 and "tdformer logs -f" in launched.stdout, launched.stderr
    wait(lambda: len(folder.metrics.read()) >= 6, folder)
    again = cli("launch", *WORDS)
    assert again.returncode == 0 and "already (running)" in again.stdout
    assert "train.lr (0.001, now 0.5)" in refused("launch", *WORDS, "train.lr=0.5")
    said = rows()["run"]
    assert said["state"] == "running" and said["seconds_since_heard"] < 60 and said["checkpoint"] >= 4

    copy = RunFolder(shutil.copytree(folder.path, runs / "copy"))
    said = rows()["copy"]
    assert (said["state"], said["job"], said["seconds_since_heard"]) == ("copied", None, None) and said[
        "checkpoint"
    ] >= 4
    assert f"copy of {folder.path}, whose job" in refused("stop", copy.path)
    assert "step" in cli("logs", "-f", copy.path).stdout  # what was copied, without waiting for the other's end
    assert rows()["run"]["state"] == "running"

    send(signal.SIGKILL, folder.path)  # as when a laptop loses its power
    ended(folder)
    (runs.parent / "other").mkdir()
    moved = RunFolder(folder.path.rename(runs.parent / "other" / "moved"))
    (row,) = map(json.loads, cli("status", moved.path, "--json").stdout.splitlines())
    assert (row["run"], row["state"], row["job_state"]) == ("moved", "lost", "ended")

    reached = len(moved.metrics.read())
    assert cli("resume", moved.path).returncode == 0
    assert cli("resume", copy.path).returncode == 0
    for run in (moved, copy):
        wait(lambda run=run: run.status()["started_at"] >= 4 and run.made(run.status()), run)  # not from step 0
    assert jobs.existing(moved.path).id != jobs.existing(copy.path).id
    wait(lambda: len(moved.metrics.read()) > reached, moved)
    assert cli("stop", moved.path).returncode == 0
    ended(moved)
    status = moved.status()
    assert status["state"] == "saved" and status["step"] == moved.saved_step() and "SIGTERM" in status["reason"]
    found = json.loads(cli("eval", moved.path).stdout)
    assert found["checkpoint"] == str(moved.checkpoints / f"step-{status['step']:08d}")
    assert str(moved.path) in cli("export", moved.path, "m.safetensors").stdout
    assert "has ended" in cli("stop", moved.path).stdout

    send(signal.SIGSTOP, copy.path)  # or it would end at its next write
    gone = RunFolder(copy.path.rename(runs / "renamed"))
    assert f"moved from {copy.path}" in rows()["renamed"]["reason"]
    assert "cannot write here" in refused("resume", gone.path)
    assert cli("stop", gone.path).returncode == 0
    send(signal.SIGCONT, copy.path)
    ended(gone)
    assert "its folder is gone" in cli("logs", gone.path).stdout

    assert cli("resume", moved.path).returncode == 0
    log = cli("logs", "-f", moved.path, timeout=300).stdout
    assert f"goes on from step {status['step']} of 64" in log and "finished" in log
    assert moved.status()["state"] == "finished" and moved.summary() is not None
    assert "is finished" in cli("launch", *WORDS, "runs_dir=other", "name=moved").stdout
    steps = [r["step"] for r in moved.metrics.read() if "loss" in r]
    assert steps == list(range(1, 65))
    assert not folder.path.exists() and not copy.path.exists()


def test_nodes_need_slurm(cli: Any, folder: RunFolder) -> None:
    done = cli("launch", *WORDS, "--nodes", 2)
    assert done.returncode == 2 and "2 nodes need Slurm" in done.stderr and not folder.path.exists()
