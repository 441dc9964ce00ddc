"""A run of a size that is no name's own: killed, gone on with, exported, evaluated; another size is another run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from firing import few_digits
from forked import Command

import tdformer
from cluster.run.folder import RunFolder

RECIPE = """\
model:
  {name: quickstart, width: 32, depths: [1, 2, 1], heads: 2, mlp_ratio: 1.5, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 2, global_batch: 24, lr: 0.003, layer_decay: 0.9, threads: 1}
engine: {zero_stage: 1}
checkpoint: {every_steps: 1}
log: {curves: false, every_steps: 1}
"""
SIZE = {"width": 32, "depths": [1, 2, 1], "heads": 2, "mlp_ratio": 1.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("sizes")
    (folder / "a.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits(folder / "shards"))))
    done(folder, "train", "a.yaml", "name=whole")
    return folder


def done(folder: Path, *words: object) -> str:
    ended = Command(*words, cwd=folder).completed(250)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refused(folder: Path, *words: object) -> str:
    ended = Command(*words, cwd=folder).completed(250)
    assert ended.returncode == 2, ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_it_is_killed_and_goes_on_to_the_same_bits(place: Path) -> None:
    run = RunFolder(place / "runs" / "killed")
    command = Command("train", "a.yaml", "name=killed", cwd=place)
    while not run.saved_step() and command.poll() is None:
        time.sleep(0.01)
    command.kill()
    command.communicate()
    assert 0 < (run.saved_step() or 0) < 10
    done(place, "train", "a.yaml", "name=killed")
    for name in ("metrics.jsonl", "checkpoints/step-00000010/model.safetensors"):
        assert (run.path / name).read_bytes() == (place / "runs" / "whole" / name).read_bytes()


def test_its_export_has_its_size_and_is_evaluated(place: Path) -> None:
    done(place, "export", "runs/whole", "a.safetensors")
    model = tdformer.from_pretrained(place / "a.safetensors")
    assert {option: model.config[option] for option in SIZE} == SIZE
    assert "| Size | width 32, depths [1, 2, 1], heads 2, mlp ratio 1.5 |" in (place / "a.safetensors.md").read_text()
    rows = [json.loads(done(place, "eval", source)) for source in ("runs/whole", "a.safetensors")]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], abs=1e-6) and rows[0]["samples"] == 120
    for source in ("runs/whole", "a.safetensors"):
        line = refused(place, "eval", source, "model.width=64")
        assert line.startswith("error: model.width cannot be set in evaluation: the weights were trained with 32; ")


def test_another_size_is_another_run_and_takes_no_weights_of_this_one(place: Path) -> None:
    line = refused(place, "train", "a.yaml", "name=whole", "model.depths=[1,1,1]")
    assert "model.depths ([1, 2, 1], now [1, 1, 1])" in line
    words = ("train", "a.yaml", "name=other", "model.weights=runs/whole")
    assert "choose the model it is of" in refused(place, *words, "model.width=64")
    assert "has no place in quickstart as configured" in refused(place, *words, "model.depths=[1,1,1]")
    line = refused(place, "train", "a.yaml", "name=other", "model.width=50")
    assert line == "error: width is 50, and with 2 heads it is a multiple of 8; the nearest is 48"
    assert not (place / "runs" / "other").exists()
    shown = done(place, "config", "show", "a.yaml", "--resolved", "model.width=null", "model.heads=null")
    assert "  width: 96\n" in shown and "  heads: 4\n" in shown and "  mlp_ratio: 1.5\n" in shown
