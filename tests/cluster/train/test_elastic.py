"""A run that goes on with 1, 2, 4, 3 and 1 processes and another ZeRO stage each time."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from forked import Command

from cluster.build.shards import write_shards
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.train.evaluate import evaluate_run

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2, mixer: processing}
data: {dataset: digits, root: SHARDS, augment: {crop_padding: 1, flip: 0.5}, mixup: 0.2}
train:
  {epochs: 3, global_batch: 120, lr: 0.003, clip_grad: 1.0, ema_decay: 0.9, threads: 1, layer_decay: 0.9}
checkpoint: {every_steps: 100, keep: 20}
log: {curves: false, every_steps: 1}
"""
STARTS = [(1, 0), (2, 1), (4, 2), (3, 3), (1, 2)]
"""Processes and ZeRO stage."""
ROWS = [5, 11, 17, 24]
"""After how many rows each start but the last is ended."""


def train(recipe: Path, runs: Path, processes: int, stage: int, rows: int | None) -> str:
    words = [str(recipe), f"runs_dir={runs}", "--processes", str(processes), f"engine.zero_stage={stage}"]
    process = Command("train", *words, cwd=runs.parent, merged=True)
    metrics, deadline = RunFolder(runs / "run").metrics, time.monotonic() + 120
    while rows is not None and process.poll() is None and len(metrics.read()) < rows:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if rows is not None:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (0 if rows is None else 143), output
    assert rows is None or "stopped by SIGTERM after step" in output
    return output


@pytest.mark.timeout(600)  # six starts
def test_other_processes_and_stages_go_on_with_the_same_run(tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("SHARDS", str(tmp_path / "shards")))
    train(recipe, tmp_path / "whole", 1, 0, None)
    before = None
    for (processes, stage), rows in zip(STARTS, [*ROWS, None], strict=True):
        said = train(recipe, tmp_path / "elastic", processes, stage, rows)
        assert before is None or f"goes on elsewhere, or otherwise: processes ({before}, now {processes}), " in said
        before = processes
    folders = [RunFolder(tmp_path / name / "run") for name in ("whole", "elastic")]
    whole, elastic = (folder.metrics.read() for folder in folders)
    assert len(elastic) == len(whole) == 3 * 11 + 3
    for expected, found in zip(whole, elastic, strict=True):
        assert found["step"] == expected["step"] and found.get("lr") == expected.get("lr")
        for key in ("loss", "accuracy", "eval_loss", "eval_accuracy"):
            if key in expected:
                assert found[key] == pytest.approx(expected[key], abs=0.05), (expected, found)
    first = [row["loss"] for row in elastic if "loss" in row][: ROWS[1]]
    assert first == pytest.approx([row["loss"] for row in whole if "loss" in row][: ROWS[1]], rel=1e-4)
    ends = [row for row in elastic if "eval_accuracy" in row]
    for row in ends:  # what one process evaluates now is what any number of them did then
        path = folders[1].checkpoints / f"step-{row['step']:08d}"
        (again,) = evaluate_run(path)
        assert (again["accuracy"], again["loss"]) == pytest.approx((row["eval_accuracy"], row["eval_loss"]), rel=1e-5)
    assert len(checkpoint.complete(folders[1].checkpoints)) >= len(ROWS) + 3
