"""From a folder of photographs to a trained model, with the commands of a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: folder, root: shards, source: pictures, size: 16, augment: {flip: 0.5}}
train: {epochs: 2, global_batch: 16, lr: 0.003, label_smoothing: 0.0}
log: {every_steps: 1}
"""


def test_a_folder_of_photographs_is_sharded_trained_on_and_evaluated(cli: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for label, name in enumerate(("dark", "bright")):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = rng.integers(20, 60, 2)
                pixels = rng.integers(0, 100, (height, width, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ("shard", "folder", "shards", "--source", "pictures", "--samples-per-shard", "30", "--processes", "2")
    done = cli(*words)
    assert done.returncode == 0 and "shards/train: 80 samples" in done.stderr, done.stderr
    refused = cli("train", "recipe.yaml", "data.size=null")
    assert refused.returncode == 2 and "have many sizes; set data.size" in refused.stderr
    assert not (tmp_path / "runs").exists()
    done = cli("train", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/run/summary.json").read_text())
    found = json.loads(cli("eval", "runs/run").stdout)
    assert found["samples"] == 20 and found["accuracy"] == summary["accuracy"]
