"""A whole step of training, its evaluation and its averages use no operator that gives other bits each time on a GPU;
what differs between two starts is said; and on a GPU, where there is one, two runs are equal to the bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import TESTS, Command
from nondeterministic import RAISING, SWITCHED, among
from same_run import assert_equal

from benchmarks import python_path
from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 4, segments: 2, feedback: all, pm: 2}
data: {dataset: digits, root: SHARDS, augment: {crop_padding: 1, flip: 0.5, erasing: 0.3}, mixup: 0.2, cutmix: 0.5}
train: {epochs: 2, global_batch: 160, micro_batch: 40, clip_grad: 1.0, ema_decay: 0.9, layer_decay: 0.9, threads: 1}
checkpoint: {every_steps: 3, keep: 2}
log: {curves: false, every_steps: 3}
"""
RECORDING = """\
import json, os
from cluster.train import loop as train
from cluster.cli import main
from nondeterministic import Used

step = train.Trainer.step

def recorded(self, *given):
    with Used() as used:
        step(self, *given)
        self.evaluate()
    with open("used.json", "w") as file:
        json.dump(sorted(used.names), file)
    os._exit(0)

train.Trainer.step = recorded
main()
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deterministic")
    write_shards("digits", folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    return folder / "recipe.yaml"


@pytest.mark.parametrize("stage", [0, 3])
def test_no_step_of_training_uses_what_gives_other_bits_each_time(recipe: Path, tmp_path: Path, stage: int) -> None:
    done = Command(
        *(
            "train",
            recipe,
            f"engine.zero_stage={stage}",
            "train.global_batch=40",
            "train.micro_batch=20",
            "engine.device=cpu",
        ),
        *("model.time_steps=2", "train.precision=bf16"),
        cwd=tmp_path,
        program=RECORDING,
    ).completed()
    assert done.returncode == 0, done.stderr
    used = set(json.loads((tmp_path / "used.json").read_text()))
    # Forward, backward, the optimizer, the average of the weights, mixing, and the loss of evaluation.
    for name in ("convolution_backward.default", "lerp_.Scalar", "flip.default", "nll_loss_forward.default"):
        assert name in used
    assert any("addcdiv" in name for name in used)
    assert not among(used, RAISING)
    assert among(used, SWITCHED) <= {"convolution.default", "convolution_backward.default"}


def test_a_start_says_what_is_not_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, config = RunFolder(tmp_path / "run"), load(None, ["train.norm_batch=64"])
    here = {"device": "CPU", "threads": 2, "torch": "2.13.0", "variables": {}}
    run.open(config, here)
    run.open(config, here | {"threads": 1})
    assert capsys.readouterr().out == ""  # nothing is saved that it could go on from
    (run.checkpoints / "step-00000001").mkdir()
    run.open(config, here | {"threads": 1})
    assert capsys.readouterr().out == ""
    run.open(config, here | {"torch": "2.14.0", "variables": {"MKL_CBWR": "AVX2"}})
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "threads (1, now 2), torch (2.13.0, now 2.14.0), variables ({" in said
    assert run.starts.read()[-1]["variables"] == {"MKL_CBWR": "AVX2"}


def test_a_run_of_an_earlier_version_goes_on_in_fp32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    settings = ("tf32: false", "device: auto", "deterministic: true")
    text = run.config_file.read_text()
    assert all(setting in text for setting in settings)
    lines = [line for line in text.splitlines(True) if line.strip() not in settings]
    run.config_file.write_text("".join(lines))
    (run.checkpoints / "step-00000001").mkdir()
    run.check(Config())
    run.open(Config(), {"device": "NVIDIA H100", "threads": 1})
    said = capsys.readouterr().out
    assert "begun by an earlier version" in said and "train.tf32=false and engine.deterministic=true" in said
    with pytest.raises(Exception, match=r"train\.tf32 \(false, now true\)"):
        run.check(load(None, ["train.tf32=true"]))
    run.check(load(None, ["engine.deterministic=false", "engine.device=cuda"]))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def trained(recipe: Path, runs: Path, *words: str, kill: bool = False) -> Path:
    """A run on the GPU, killed once after its first checkpoint and gone on with if `kill`."""
    env = {k: v for k, v in os.environ.items() if k != "TDFORMER_KERNELS"} | {"PYTHONPATH": python_path(TESTS.parent)}
    command = [
        sys.executable,
        "-m",
        "cluster.cli",
        "train",
        str(recipe),
        f"runs_dir={runs}",
        "engine.device=cuda",
        *words,
    ]
    if kill:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 200
        while RunFolder(runs / "run").saved_step() is None:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert kill == ("goes on from step" in done.stdout) and "device_id" not in done.stderr
    return runs


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(
    "words",
    [(f"engine.zero_stage={stage}",) for stage in range(4)]
    + [(f"recompute.policy={policy}",) for policy in ("none", "block", "time")]
    + [("train.precision=bf16",), ("train.precision=bf16", "engine.zero_stage=3"), ("model.name=spikformer_2_256",)]
    + [("train.precision=fp16", "train.growth_interval=5"), ("train.precision=fp16", "engine.zero_stage=3")],
    ids=" ".join,
)
def test_on_a_gpu_twice_and_killed_are_equal_to_the_bit(recipe: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    once = trained(recipe, tmp_path / "once", *words)
    assert_equal(once, trained(recipe, tmp_path / "twice", *words))
    shutil.rmtree(tmp_path / "twice")
    assert_equal(once, trained(recipe, tmp_path / "killed", *words, kill=True))
