"""The `tdformer` command in real processes: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, refused, user_command
from forked import Command

from cluster.config import load
from pipelines.store.tars import TarDataset


def test_a_run_leaves_what_it_should(trained: Path):
    run = trained / "runs" / "small"
    names = {p.name for p in run.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "speed.jsonl", "curves.png", "checkpoints", "summary.json"}
    assert load(run / "config.yaml") == load(trained / "small.yaml", ["train.norm_batch=125"])  # what is derived, too
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 4, 5]  # 1,437 images in batches of 250; the last row is the evaluation
    assert rows[0]["loss"] > 0
    assert 0 <= rows[-1]["eval_accuracy"] <= 1
    assert json.loads((run / "summary.json").read_text())["step"] == 5


def test_the_same_command_again_says_that_it_is_finished(trained: Path):
    before = (trained / "runs/small/metrics.jsonl").read_bytes()
    done = Command("train", "small.yaml", cwd=trained).completed()
    assert done.returncode == 0, done.stderr
    assert "runs/small is finished" in done.stdout
    assert (trained / "runs/small/metrics.jsonl").read_bytes() == before


def test_other_settings_in_a_run_folder_are_refused(trained: Path):
    line = refused(Command("train", "small.yaml", "train.lr=0.5", cwd=trained).completed())
    assert "train.lr (0.001, now 0.5)" in line
    assert "name=" in line


def test_a_run_folder_in_use_is_refused(trained: Path, python: Any):
    program = (
        "import sys; from cluster.run.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n    print('held', flush=True); sys.stdin.readline()"
    )
    holder = python(program, trained / "runs/small")
    assert holder.stdout.readline() == "held\n"
    in_use = Command("train", "small.yaml", cwd=trained).completed()
    assert f"runs/small is in use by process {holder.pid}" in refused(in_use)


def test_eval_prints_what_training_measured(trained: Path):
    done = user_command(trained, "eval", "runs/small")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (trained / "runs/small/metrics.jsonl").read_text().splitlines()]
    assert result["accuracy"] == rows[-1]["eval_accuracy"]
    assert result["samples"] == 360


def test_predict_needs_the_run_alone(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "runs" / "small", tmp_path / "moved")
    data = TarDataset(trained / "shards" / "test")
    (tmp_path / "digit.png").write_bytes(data.read(0)[0])
    done = user_command(tmp_path, "predict", "moved", "digit.png", "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["image"] == "digit.png" and len(row["logits"]) == 10 and len(row["top"]) == 5
    assert [one["class"] for one in row["top"]] == [data.class_names[one["number"]] for one in row["top"]]


FIRST_WORDS = """
import sys
from cluster.jobs import waiting

def waits(what):
    sys.exit(len({"torch", "deepspeed"} & sys.modules.keys()))

waiting.waits = waits
from cluster.cli import main
main()
"""


@pytest.mark.parametrize("words", [["train"], ["launch", "--where", "local"]], ids=lambda words: words[0])
def test_nothing_slow_is_done_before_the_first_word(tmp_path: Path, words: list[str]):
    """Settings that need PyTorch to be checked are among those given."""
    given = [*words, "digits", "recompute.policy=unit", "model.segments=2", "train.schedule=constant"]
    done = subprocess.run([sys.executable, "-c", FIRST_WORDS, *given], cwd=ROOT, timeout=60)
    assert done.returncode == 0


def test_a_start_says_what_it_does_before_each_thing_that_takes_long(trained: Path):
    """In a log, where each is a line; nothing of it is in the rows of the run."""
    done = user_command(trained, "train", "small.yaml", "name=again", "--processes", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    waits = [line for line in lines if line.startswith("... ")]
    assert waits == [
        *("... loading PyTorch", "... reading shards", "... planning the memory of a step"),
        *("... loading DeepSpeed", "... joining 2 ranks", "... the first step"),
    ]
    names = [line.split()[0] for line in lines[3:9]]
    assert names == ["model", "data", "steps", "device", "memory", "folder"] and lines[9] == "... loading DeepSpeed"
    block = "\n".join(lines[3:9])
    assert "quickstart, 0.33 M parameters, T = 2 in 2 segments" in block
    assert "1,437 pictures of 8 x 8 x 1 in 10 classes, 360 to test on; digits in shards" in block
    assert "5 in 1 epoch, each of 250 = 2 processes x 125" in block
    assert "2 x CPU, 1 thread, fp32" in block and "recompute none: at most" in block and "runs/again" in block
    for file in ("metrics.jsonl", "speed.jsonl"):
        one, other = (trained / "runs" / name / file for name in ("small", "again"))
        assert [list(json.loads(row)) for row in one.open()] == [list(json.loads(row)) for row in other.open()]
