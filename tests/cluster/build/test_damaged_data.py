"""Training past damaged samples: counted, told, bounded, and resumed to the bit; and from an FFCV copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from same_run import assert_equal

from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from pipelines.store.tars import TarDataset

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards, augment: {flip: 0.5}, on_error: skip}
train: {epochs: 2, global_batch: 240, micro_batch: 120, threads: 1, ema_decay: 0.9}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1}
"""
BAD = [10, 700, 1400]


def flip(data: TarDataset, i: int) -> None:
    path = data.paths[int(data.table["shard"][i])]
    content = bytearray(path.read_bytes())
    content[int(data.table["offset"][i]) + 20] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def damaged(cli: Any, tmp_path: Path) -> Path:
    assert cli("shard", "digits", "shards").returncode == 0
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for i in BAD:
        flip(TarDataset(tmp_path / "shards" / "train"), i)
    return tmp_path


def test_damaged_samples_are_passed_over_and_a_resume_passes_over_the_same(cli: Any, damaged: Path) -> None:
    done = cli("train", "recipe.yaml", "--processes", "2", "runs_dir=whole")
    assert done.returncode == 0, done.stderr
    folder = RunFolder(damaged / "whole" / "run")
    rows = [row for row in folder.health.read() if "sample" in row]
    assert sorted(row["sample"] for row in rows) == BAD
    assert all("is skipped: " in row["warning"] and "(checksum)" in row["warning"] for row in rows)
    newest = checkpoint.complete(folder.checkpoints)[0]
    saved = json.loads((newest / "state.json").read_text())
    assert saved["state"]["cursor"]["damaged"] == BAD

    shutil.copytree(damaged / "whole", damaged / "again")
    again = RunFolder(damaged / "again" / "run")
    for path in checkpoint.complete(again.checkpoints):
        if checkpoint.step_of(path) > 6:
            shutil.rmtree(path)
    for name in ("summary.json", "status.json"):
        (again.path / name).unlink()
    assert cli("train", "recipe.yaml", "--processes", "2", "runs_dir=again").returncode == 0
    assert_equal(damaged / "whole", damaged / "again")


def test_too_many_are_an_error_on_every_rank(cli: Any, damaged: Path) -> None:
    done = cli("train", "recipe.yaml", "--processes", "2", "data.skips=2")
    assert done.returncode == 2
    assert "3 training samples are damaged (data.skips=2)" in done.stderr.splitlines()[-1], done.stderr


def test_an_ffcv_copy_of_the_files_trains_to_the_same_bits(cli: Any, tmp_path: Path) -> None:
    pytest.importorskip("ffcv", reason="ffcv is not installed (make ffcv)")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = cli("shard", "digits", "shards", "--to", "ffcv", "--stored", "files", "--processes", "2")
    assert done.returncode == 0 and "train.beton" in done.stderr, done.stderr
    for form in ("webdataset", "ffcv"):
        done = cli("train", "recipe.yaml", f"data.format={form}", f"runs_dir={form}")
        assert done.returncode == 0, done.stderr
        if form == "webdataset":
            for shard in tmp_path.glob("shards/*/*.tar"):
                shard.unlink()  # the copy and the index are enough
    assert_equal(tmp_path / "webdataset", tmp_path / "ffcv")
    path = tmp_path / "shards/train/train.beton"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    refused = cli("train", "recipe.yaml", "data.format=ffcv", "name=other")
    assert refused.returncode == 2 and "train.beton has" in refused.stderr and len(refused.stderr.splitlines()) == 1
