"""Runs as jobs of this machine, through submitit's local executor; and when a crashed job may start again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import jobs
from cluster.aftermath import verdict
from cluster.prepare import write_shards
from cluster.run import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data: {dataset: digits, root: shards}
train: {epochs: 8, global_batch: 160, micro_batch: 40, threads: 1, eval_every_epochs: 8}
checkpoint: {every_steps: 4}
log: {every_steps: 1}
"""
WORDS = ("recipe.yaml", "--where", "local", "--processes-per-node", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    yield RunFolder(tmp_path / "runs" / "run")
    kill(tmp_path / "runs" / "run")


def kill(run: Path) -> None:
    """Every process of the run's job at once, as when a laptop loses its power."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{run}/logs".encode() in (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if ours:
            os.kill(int(entry.name), signal.SIGKILL)


def wait(holds: Callable[[], Any], folder: RunFolder) -> None:
    deadline = time.monotonic() + 100
    while not holds():
        logs = [p.read_text() for p in folder.path.glob("logs/*.out")]
        assert time.monotonic() < deadline, "\n".join(map(str, [folder.status(), *logs]))
        time.sleep(0.1)


def test_a_run_in_the_background_of_this_machine(cli: Any, folder: RunFolder) -> None:
    def row() -> dict[str, str]:
        (line,) = cli("status", "--json").stdout.splitlines()
        return json.loads(line)

    launched = cli("launch", *WORDS)
    assert launched.returncode == 0 and "tdformer logs -f" in launched.stdout, launched.stderr
    wait(lambda: len(folder.metrics.read()) >= 6, folder)
    again = cli("launch", *WORDS)
    assert again.returncode == 0 and "already (running)" in again.stdout
    said = row()
    assert said["state"] == "running" and said["heard"].endswith(" s ago") and int(said["checkpoint"]) >= 4

    kill(folder.path)
    wait(lambda: jobs.existing(folder.path).state() == "ENDED", folder)
    assert row()["state"] == "lost"

    reached = len(folder.metrics.read())
    assert cli("resume", folder.path).returncode == 0
    wait(lambda: folder.status()["state"] == "running" and len(folder.metrics.read()) > reached, folder)
    assert cli("stop", folder.path).returncode == 0
    wait(lambda: jobs.existing(folder.path).state() == "ENDED", folder)
    status = folder.status()
    assert status["state"] == "saved" and status["step"] == folder.saved_step() and "SIGTERM" in status["reason"]
    assert row()["state"] == "saved"

    assert cli("resume", folder.path).returncode == 0
    log = cli("logs", "-f", folder.path).stdout
    assert f"goes on from step {status['step']} of 64" in log and "finished" in log
    assert folder.status()["state"] == "finished" and folder.summary() is not None
    assert "is finished" in cli("launch", *WORDS).stdout
    steps = [r["step"] for r in folder.metrics.read() if "loss" in r]
    assert steps == list(range(1, 65))


def test_nodes_need_slurm(cli: Any, folder: RunFolder) -> None:
    done = cli("launch", *WORDS, "--nodes", 2)
    assert done.returncode == 2 and "2 nodes need Slurm" in done.stderr and not folder.path.exists()


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([0], None),  # the first crash, even before a checkpoint
        ([8], None),
        ([8, 12], None),
        ([8, 8], "twice from step 8 on"),
        ([4, 8, 12], "3 times, site.restarts=2"),
    ],
)
def test_a_crash_is_tried_again_while_it_gains_checkpoints(steps: list[int], why: str | None) -> None:
    said = verdict([{"exit_code": 1, "checkpoint": step} for step in steps], limit=2)
    assert (said is None) == (why is None)
    assert why is None or (said is not None and why in said)
