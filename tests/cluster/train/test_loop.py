"""Training through the command: settings that must not change the numbers do not, and the parts of a step are right."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.build.shards import write_shards
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from pipelines.order import permutation
from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 4, segments: 2, feedback: all}
data: {dataset: digits, root: shards, augment: {crop_padding: 1}}
train: {epochs: 1, global_batch: 160, lr: 0.003, clip_grad: 1.0, threads: 1}
checkpoint: {every_steps: 4, keep: 2}
log: {every_steps: 1}
"""


@pytest.fixture
def train(cli: Any, tmp_path: Path) -> Any:
    """Run the recipe with changes; returns the rows of its metrics."""
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def run(name: str, *words: str) -> list[dict[str, Any]]:
        done = cli("train", "recipe.yaml", f"name={name}", *words)
        assert done.returncode == 0, done.stderr + done.stdout
        return RunFolder(tmp_path / "runs" / name).metrics.read()

    return run


def test_recomputation_and_workers_change_no_number(train: Any) -> None:
    """The same bits whatever is kept for backward and whoever reads the data."""
    reference = train("none", "recompute.policy=none")
    assert reference[-1]["eval_accuracy"] > 0 and len(reference) == 8 + 1
    assert train("block", "recompute.policy=block", "data.workers=2") == reference
    assert train("time", "recompute.policy=time") == reference
    assert train("unit", "recompute.policy=unit", "recompute.borders=2") == reference


def test_two_processes_with_synchronised_batchnorm_are_one_batch(train: Any) -> None:
    """Loss and evaluation of the first steps agree with one process to rounding: same global batch, same statistics."""
    alone = train("alone", "engine.zero_stage=1")
    for stage in (2, 3):
        words = "--processes", "2", f"engine.zero_stage={stage}", "recompute.policy=none"
        both = train(f"stage-{stage}", *words)
        assert [row["step"] for row in both] == [row["step"] for row in alone]
        assert both[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-5)
        assert both[0]["grad_norm"] == pytest.approx(alone[0]["grad_norm"], rel=1e-3)
        assert both[2]["loss"] == pytest.approx(alone[2]["loss"], rel=2e-2)
        for policy in ("unit", "block")[: stage - 1]:
            borders = ["recompute.borders=2"] if policy == "unit" else []
            assert train(f"{policy}-{stage}", *words, f"recompute.policy={policy}", *borders) == both


def test_bf16_trains_and_keeps_fp32_weights(train: Any, tmp_path: Path) -> None:
    """On few pictures: a CPU without AVX-512 takes 0.2 s for each in bf16."""
    digits = catalog.get("digits")
    assert isinstance(digits, ArrayDataset)

    def few(split: str, source: Path | None) -> tuple[Any, Any]:
        images, labels = digits.load(split, source)
        return images[:80], labels[:80]

    for split in digits.splits:
        shards.write(replace(digits, load=few), split, tmp_path / "few")
    words = ("train.epochs=4", "train.global_batch=40", "train.eval_every_epochs=4", "model.time_steps=2")
    rows = train("bf16", "train.precision=bf16", "recompute.policy=block", f"data.root={tmp_path / 'few'}", *words)
    assert rows[-2]["loss"] < rows[0]["loss"]
    assert not any("loss_scale" in row for row in rows)
    parts, saved = checkpoint.load(checkpoint.complete(tmp_path / "runs" / "bf16" / "checkpoints")[0])
    assert "scale" not in saved["state"]
    assert {t.dtype for part in parts.values() for t in part.values()} == {torch.float32}


def test_a_run_goes_on_with_other_processes_and_another_zero_stage(train: Any, tmp_path: Path) -> None:
    """Same global batches, same state: the rows after the change agree to rounding."""
    whole = train("whole", "train.epochs=1")
    shutil.copytree(tmp_path / "runs" / "whole", tmp_path / "runs" / "moved")
    moved = RunFolder(tmp_path / "runs" / "moved")
    moved.summary_file.unlink()
    newest, before = checkpoint.complete(moved.checkpoints)
    assert checkpoint.step_of(before) == 4
    shutil.rmtree(newest)
    rows = train("moved", "train.epochs=1", "--processes", "2", "engine.zero_stage=3")
    assert rows[:4] == whole[:4]
    assert [row["step"] for row in rows] == [row["step"] for row in whole]
    assert rows[4]["loss"] == pytest.approx(whole[4]["loss"], rel=1e-5)
    assert rows[4]["lr"] == whole[4]["lr"]
    assert rows[5]["loss"] == pytest.approx(whole[5]["loss"], rel=1e-2)


def test_what_one_process_meets_ends_all_with_one_line(cli: Any, tmp_path: Path) -> None:
    """A sample that only the second process reads, in its third step, is damaged."""
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    data = TarDataset(tmp_path / "shards" / "train")
    sample = int(permutation(0, 0, len(data))[2 * 160 + 80 + 7])
    path = data.paths[int(data.table["shard"][sample])]
    content = bytearray(path.read_bytes())
    content[int(data.table["offset"][sample]) + 30] ^= 1
    path.write_bytes(content)
    done = cli("train", "recipe.yaml", "--processes", "2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"{path.name}: sample {sample} is damaged" in line


def test_the_command_says_what_it_measured(train: Any, cli: Any, tmp_path: Path) -> None:
    rows = train("run")
    done = cli("eval", "runs/run")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["samples"] == 360
    assert result["accuracy"] == rows[-1]["eval_accuracy"] and result["loss"] == rows[-1]["eval_loss"]
    again = cli("train", "recipe.yaml", "name=run")
    assert again.returncode == 0 and "is finished" in again.stdout
    assert (tmp_path / "runs" / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
