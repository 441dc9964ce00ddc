"""A signal that reaches every process of a run, as Slurm, a closed terminal and `kill -- -GROUP` send it: the run
saves at the step it is in, with loader workers and without."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from forked import Command, children

from cluster.build.shards import write_shards
from cluster.run import checkpoint
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1, segments: 1}
data: {dataset: digits, root: shards}
train: {epochs: 40, global_batch: 160, threads: 1}
checkpoint: {every_steps: 10000}
log: {curves: false, every_steps: 1}
"""
START = "import os, signal; os.setsid(); signal.signal(signal.SIGHUP, signal.%s); from cluster.cli import main; main()"
OWN_GROUP, NOHUP = START % "SIG_DFL", START % "SIG_IGN"  # the suite itself may run under nohup


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    write_shards("digits", folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def started(place: Path, name: str, program: str, processes: int, workers: int) -> tuple[Command, RunFolder]:
    """A run that has done some steps of its second epoch or a later one: its workers have seen an evaluation."""
    words = ["recipe.yaml", f"name={name}", "--processes", processes, f"data.workers={workers}"]
    command = Command("train", *words, cwd=place, program=program, merged=True)
    folder = RunFolder(place / "runs" / name)
    deadline = time.monotonic() + 120
    while not any(row["epoch"] for row in folder.metrics.read()):
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.02)
    return command, folder


@pytest.mark.parametrize(
    ("kind", "processes", "workers"),
    [
        (signal.SIGTERM, 1, 0),
        (signal.SIGTERM, 1, 2),
        (signal.SIGTERM, 2, 1),
        (signal.SIGUSR2, 1, 2),
        (signal.SIGHUP, 1, 2),
        (signal.SIGHUP, 2, 1),
    ],
)
def test_a_signal_to_all_processes_saves(place: Path, kind: signal.Signals, processes: int, workers: int) -> None:
    command, folder = started(place, f"{kind.name}-{processes}-{workers}", OWN_GROUP, processes, workers)
    os.killpg(command.pid, kind)
    output, _ = command.communicate(timeout=60)
    steps = [row["step"] for row in folder.metrics.read() if "loss" in row]
    assert command.returncode == 143, output
    assert folder.saved_step() == steps[-1] and folder.status()["state"] == "saved", output
    found = checkpoint.newest_good(folder.checkpoints, pytest.fail)
    assert found is not None and checkpoint.step_of(found) == steps[-1]


def test_nohup_is_heeded_and_workers_last_over_epochs(place: Path) -> None:
    command, folder = started(place, "nohup", NOHUP, 1, 2)
    os.killpg(command.pid, signal.SIGHUP)
    before, workers = last_epoch(folder), children(command.pid)
    deadline = time.monotonic() + 60
    while last_epoch(folder) < before + 2:
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    assert len(workers) == 2 and children(command.pid) == workers
    os.killpg(command.pid, signal.SIGTERM)
    assert command.communicate(timeout=60) and command.returncode == 143


def last_epoch(folder: RunFolder) -> int:
    return max(row["epoch"] for row in folder.metrics.read())
