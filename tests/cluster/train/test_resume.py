"""The promise: SIGKILL at any moment, the same command again, and metrics and weights are those of a run that was
never killed, to the bit; with every ZeRO stage, and with one process and two."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Command
from same_run import assert_equal

from benchmarks import bits
from cluster.build.shards import write_shards
from cluster.run import checkpoint
from cluster.run.folder import RunFolder

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(bits.RECIPE.replace("SHARDS", str(folder / "shards")))
    return folder / "recipe.yaml"


def start(recipe: Path, runs: Path, *words: str) -> Command:
    return Command("train", recipe, f"runs_dir={runs}", *words, cwd=ROOT, merged=True)


def finish(recipe: Path, runs: Path, *words: str) -> str:
    process = start(recipe, runs, *words)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """The folder of a run that was never killed, by processes and ZeRO stage; to be read only. Those of
    the one with two processes that is compared with killed runs are a user's, started from nothing; all others are
    forked."""
    done: dict[tuple[int, int], Path] = {}

    def get(processes: int, stage: int) -> Path:
        if (processes, stage) not in done:
            runs = tmp_path_factory.mktemp("whole")
            words = ["--processes", str(processes), f"engine.zero_stage={stage}"]
            if stage == 2:
                command = [sys.executable, "-m", "cluster.cli", "train", recipe, f"runs_dir={runs}", *words]
                subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=240)
            else:
                finish(recipe, runs, *words)
            done[processes, stage] = runs
        return done[processes, stage]

    return get


def kill_at(process: Command, runs: Path, moment: float) -> None:
    """SIGKILL the command `moment` seconds after its first row; its children must not outlive it."""
    metrics = runs / "run" / "metrics.jsonl"
    size = metrics.stat().st_size if metrics.exists() else -1
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.stat().st_size != size and metrics.stat().st_size > 0:
            break
        time.sleep(0.01)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()


BY_CLOCK = ("checkpoint.every_steps=null", "checkpoint.every_minutes=0.004")


@pytest.mark.parametrize(("processes", "stage", "kills", "saves"), [(1, 0, 4, ()), (2, 2, 3, BY_CLOCK)])
def test_killed_at_random_moments_and_resumed_is_bit_identical(
    recipe: Path,
    tmp_path: Path,
    whole: Callable[[int, int], Path],
    processes: int,
    stage: int,
    kills: int,
    saves: tuple[str, ...],
) -> None:
    """saves: when the killed run does, where that is not when the whole one did."""
    words = ["--processes", str(processes), f"engine.zero_stage={stage}", *saves]
    random_moments = random.Random(processes)
    killed = tmp_path / "killed"
    for _ in range(kills):
        process = start(recipe, killed, *words)
        kill_at(process, killed, random_moments.uniform(0, 1.5))
        for path in checkpoint.complete(killed / "run" / "checkpoints"):
            assert checkpoint.verify(path) is None
    output = finish(recipe, killed, *words)
    assert "goes on from step" in output or "finished" in output
    assert_equal(whole(processes, stage), killed)
    assert "is finished" in finish(recipe, killed, *words)


@pytest.mark.parametrize(("processes", "stage", "then"), [(1, 1, 15), (2, 3, 15)])
def test_every_zero_stage_goes_on_exactly(
    recipe: Path, tmp_path: Path, whole: Callable[[int, int], Path], processes: int, stage: int, then: int
) -> None:
    """Stopped after a checkpoint in mid-epoch; stages 0 and 2 are covered above."""
    back_to(whole(processes, stage), tmp_path / "again", then)
    finish(recipe, tmp_path / "again", "--processes", str(processes), f"engine.zero_stage={stage}")
    assert_equal(whole(processes, stage), tmp_path / "again")


@pytest.mark.parametrize("name", bits.RUNS)
def test_its_bytes_are_those_recorded(whole: Callable[[int, int], Path], name: str) -> None:
    """On the processor and with the libraries of the record; anywhere the bytes are of these files. Where a change is
    meant to change bits, count `kernels.ARITHMETIC` up and record them anew: `python -m benchmarks.bits --write`."""
    run = whole(*bits.RUNS[name]) / "run"
    assert bits.record()[name]["digests"].keys() == bits.digests(run).keys()
    assert not bits.differences(name, run)


def back_to(whole: Path, again: Path, step: int) -> None:
    """A copy of a run folder whose newest checkpoint is that of a run killed after `step`."""
    import shutil

    shutil.copytree(whole, again)
    folder = RunFolder(again / "run")
    folder.summary_file.unlink()
    kept = [p for p in checkpoint.complete(folder.checkpoints) if checkpoint.step_of(p) <= step]
    if not kept:
        pytest.fail(f"no checkpoint up to step {step} is left to go back to")
    for path in checkpoint.complete(folder.checkpoints):
        if path not in kept:
            shutil.rmtree(path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    recipe: Path, tmp_path: Path, whole: Callable[[int, int], Path]
) -> None:
    back_to(whole(1, 0), tmp_path / "again", 100)
    newest = checkpoint.complete(tmp_path / "again" / "run" / "checkpoints")[0]
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    output = finish(recipe, tmp_path / "again")
    assert f"{newest.name} is damaged: optimizer.safetensors" in output
    assert_equal(whole(1, 0), tmp_path / "again")


def test_bad_input_for_a_run_that_exists(recipe: Path, tmp_path: Path) -> None:
    """Another model's checkpoint, another data set and a folder in use: one line, exit code 2, nothing changed."""
    finish(recipe, tmp_path / "whole", "train.epochs=1")
    back_to(tmp_path / "whole", tmp_path / "again", 100)
    folder = RunFolder(tmp_path / "again" / "run")

    def refused(*words: str) -> str:
        before = {p: p.read_bytes() for p in folder.checkpoints.rglob("*") if p.is_file()}
        process = start(recipe, tmp_path / "again", "train.epochs=1", *words)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2, output
        assert before == {p: p.read_bytes() for p in folder.checkpoints.rglob("*") if p.is_file()}
        return output.strip().splitlines()[-1]

    assert "train.lr (0.003, now 0.1)" in refused("train.lr=0.1")
    with folder.lock():
        assert f"in use by process {os.getpid()}" in refused()
    text = folder.config_file.read_text()
    folder.config_file.write_text(text.replace("feedback: all", "feedback: none"))
    assert "is of another model" in refused("model.feedback=none")
    folder.config_file.write_text(text)
    other = tmp_path / "other"
    write_shards("digits", other, samples_per_shard=100)
    assert "training data has digest" in refused(f"data.root={other}")
