"""From a folder of photographs to a trained model, with the commands of a user."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.train.evaluate import evaluate_run
from pipelines.views.corruptions import KINDS

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: folder, root: shards, source: pictures, size: 16, augment: {flip: 0.5}}
train: {epochs: 2, global_batch: 16, lr: 0.003, label_smoothing: 0.0}
log: {curves: false, every_steps: 1}
"""


def test_a_folder_of_photographs_is_sharded_trained_on_and_evaluated(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    recipe = cli("train", "recipe.yaml", "data.augment.rand_augment=rand-x9")
    assert recipe.returncode == 2 and "timm does not know rand_augment=rand-x9" in recipe.stderr
    assert not (tmp_path / "runs").exists()
    done = cli("train", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/run/summary.json").read_text())
    found = json.loads(cli("eval", "runs/run").stdout)
    assert found["samples"] == 20 and found["accuracy"] == summary["accuracy"]
    monkeypatch.chdir(tmp_path)
    corrupted_sets_are_evaluated(cli, tmp_path)


def test_a_folder_as_people_have_them_is_sharded_with_a_word_on_what_is_not_read(cli: Any, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "pictures" / split / name / "more").mkdir(parents=True)
            for path in ("1.png", "more/2.webp", ".3.png"):
                Image.new("RGB", (30, 20)).save(tmp_path / "pictures" / split / name / path)
    cat = tmp_path / "pictures/train/cat"
    (cat / "notes.txt").write_text("x")
    (tmp_path / "pictures/val/dog/cut.jpg").write_bytes(b"\xff\xd8")
    Image.new("1", (12_000, 12_000)).save(cat / "bomb.png")
    words = ("shard", "folder", "shards", "--source", "pictures", "--processes", "1")
    done = cli(*words)
    assert done.returncode == 2 and not (tmp_path / "shards/train").exists()
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: 2 samples are wrong: ") and line.endswith("; fix the source")
    assert "cat/bomb.png has 12000 x 12000 pixels, more than 100,000,000" in line and "dog/cut.jpg does not dec" in line
    (tmp_path / "pictures/val/dog/cut.jpg").unlink()
    done = cli(*words, "--max-pixels", 12_000**2)
    assert done.returncode == 0, done.stderr
    assert "shards/train: 5 samples" in done.stderr and "shards/test: 4 samples" in done.stderr
    first = "pictures/train/cat"
    assert f"not in shards/train: 2 hidden, or left by a system ({first}/.3.png)" in done.stderr
    assert f"1 of another format ({first}/notes.txt)" in done.stderr
    (cat / "1.png").rename(cat / "1.gif")
    (cat / "bomb.png").unlink()
    (cat / "more/2.webp").unlink()
    done = cli(*words)
    assert done.returncode == 2 and f"{first}: nothing to read (" in done.stderr


def corrupted_sets_are_evaluated(cli: Any, folder: Path) -> None:
    """In CIFAR-10-C's format and in ImageNet-C's; every kind and severity shows the same pictures."""
    rng = np.random.default_rng(1)
    arrays, labels = folder / "arrays", np.arange(10) % 2
    pixels = (rng.integers(0, 100, (10, 24, 24, 3)) + 150 * (1 - labels[:, None, None, None])).astype(np.uint8)
    arrays.mkdir()
    np.save(arrays / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for kind in KINDS:
        np.save(arrays / f"{kind}.npy", np.tile(pixels, (5, 1, 1, 1)))
    done = cli("eval", "runs/run", "--corrupted-set", "arrays")
    assert done.returncode == 0, done.stderr
    _, *rows, every, main = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["corruption"], row["severity"]) for row in rows] == [(k, s) for k in KINDS for s in range(1, 6)]
    accuracy = rows[0]["accuracy"]
    assert {row["accuracy"] for row in rows} == {accuracy}
    assert [mean.pop("kinds") for mean in (every, main)] == [19, 15]
    assert every == main == {"corruption": "mean", "accuracy": pytest.approx(accuracy)}
    np.save(arrays / "labels.npy", np.tile(1 - labels, 5).astype(np.uint8))
    _, fog, *_ = evaluate_run("runs/run", corruptions=["fog"], corrupted_set=arrays)
    assert fog["accuracy"] == pytest.approx(1 - accuracy)

    for severity, name in product(range(1, 6), ("dark", "bright")):
        place = folder / "folders" / "snow" / str(severity) / name
        place.mkdir(parents=True)
        for i in range(50):
            Image.fromarray(pixels[2 * (i % 5) + (name == "dark")]).save(place / f"{i}.JPEG", quality=95)
    _, *rows = evaluate_run("runs/run", corruptions=["all"], corrupted_set=folder / "folders")
    assert [row["corruption"] for row in rows] == ["snow"] * 5 + ["mean"] and len({r["loss"] for r in rows[:5]}) == 1
    (folder / "folders" / "snow" / "3" / "dark").rename(folder / "dark")
    done = cli("eval", "runs/run", "--corrupted-set", "folders")
    assert done.returncode == 2 and "dark is only in the run" in done.stderr and not done.stdout


def test_a_run_is_evaluated_on_corrupted_pictures(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "name: run\nmodel: {name: quickstart, time_steps: 2, segments: 2}\n"
        "data: {dataset: digits, root: shards}\ntrain: {epochs: 2, global_batch: 40, lr: 0.004}\n"
    )
    assert cli("shard", "digits", "shards").returncode == 0 and cli("train", "recipe.yaml").returncode == 0
    grey = cli("train", "recipe.yaml", "name=other", "data.augment.color_jitter=0.4")
    assert grey.returncode == 2 and "work on colours" in grey.stderr and not (tmp_path / "runs/other").exists()
    unknown = cli("eval", "runs/run", "--corruptions", "fogg")
    assert unknown.returncode == 2 and "did you mean fog?" in unknown.stderr and not unknown.stdout
    done = cli("eval", "runs/run", "--corruptions", "gaussian_noise")
    assert done.returncode == 0, done.stderr
    clean, *rows, mean = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["corruption"], row["severity"]) for row in rows] == [("gaussian_noise", s) for s in range(1, 6)]
    assert clean["samples"] == 360 and len({row["loss"] for row in (clean, *rows)}) == 6
    assert mean == {"corruption": "mean", "kinds": 1, "accuracy": np.mean([row["accuracy"] for row in rows])}
