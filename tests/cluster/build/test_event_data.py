"""Training on the frames of an event camera's recordings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from event_files import gestures
from same_run import assert_equal

import tdformer
from cluster import config as configs
from cluster.build import planner
from cluster.build.data import augmentation, opened, view
from cluster.build.model import build_model
from cluster.build.shards import verify_shards, write_shards
from cluster.config import Config, load
from cluster.errors import RunError
from cluster.jobs.processes import check_inputs
from cluster.results.export import evaluate_export, export
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.train.evaluate import evaluate_run
from pipelines.views.frames import FrameView
from tdformer.kernels import stands_for

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: dvs128_gesture, root: shards, size: 16, augment: {flip: 0.5, events: true}, mixup: 0.5, cutmix: 1.0}
train: {epochs: 2, global_batch: 8, micro_batch: 2, lr: 0.003, label_smoothing: 0.0, threads: 1, ema_decay: 0.5}
checkpoint: {every_steps: 3, keep: 9}
log: {curves: false, every_steps: 1}
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    gestures(folder / "source", {"train": 4, "test": 2})
    write_shards("dvs128_gesture", folder / "shards", folder / "source", samples_per_shard=5)
    assert [line.partition(": ")[2] for line in verify_shards(folder / "shards")] == [
        f"{n} samples, as in the index" for n in (8, 16)
    ]
    return folder / "shards"


def config(shards: Path, *words: str) -> Config:
    (shards.parent / "recipe.yaml").write_text(RECIPE)
    return load(shards.parent / "recipe.yaml", [f"data.root={shards}", *words])


@pytest.fixture
def train(cli: Any, shards: Path, tmp_path: Path) -> Callable[..., str]:
    """Train with the command; gives what it printed."""
    (tmp_path / "recipe.yaml").write_text(configs.to_yaml(config(shards)))

    def run(runs: str, *words: str) -> str:
        done = cli("train", "recipe.yaml", f"runs_dir={runs}", *words, timeout=290)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_two_processes_go_on_to_the_same_bits(train: Callable[..., str], tmp_path: Path) -> None:
    train("two", "--processes", "2")
    shutil.copytree(tmp_path / "two", tmp_path / "again")
    folder = RunFolder(tmp_path / "again/run")  # as one that was killed in mid-epoch
    folder.summary_file.unlink()
    for path in checkpoint.complete(folder.checkpoints):
        if checkpoint.step_of(path) > 3:
            shutil.rmtree(path)
    assert "goes on from step 3" in train("again", "--processes", "2", "data.workers=1")
    assert_equal(tmp_path / "two", tmp_path / "again")


def test_a_run_is_evaluated_and_exported(train: Callable[..., str], tmp_path: Path) -> None:
    train("one", "train.epochs=1", "model.segments=1", "model.feedback=none")  # a small graph to export
    [found] = evaluate_run(tmp_path / "one/run")
    summary = json.loads((tmp_path / "one/run/summary.json").read_text())
    assert found["samples"] == 8 and found["accuracy"] == summary["accuracy"]
    export(tmp_path / "one/run", tmp_path / "m.pt2", batch=3)
    exported = evaluate_export(tmp_path / "m.pt2")
    assert exported["accuracy"] == found["accuracy"] and exported["loss"] == pytest.approx(found["loss"], rel=1e-5)
    with pytest.raises(RunError, match="--corruptions are of pictures, .*shards/test are events; leave them out"):
        next(evaluate_run(tmp_path / "one/run", corruptions=["fog"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.augment.crop_padding=2"], "data.augment.crop_padding is not for events"),
        (["data.augment.erasing=0.2"], "data.augment.erasing is not for events"),
        (["data.augment.color_jitter=0.2"], "data.augment.color_jitter is not for events"),
        (["data.augment.rand_augment=rand-m9"], "data.augment.rand_augment is not for events"),
        (["data.augment.scale=[0.2,1.0]"], "data.augment.scale is not for events"),
        (["data.crop_ratio=1.0"], "data.crop_ratio is not for events"),
        (["data.size=256"], "data.size=256 exceeds the 128 x 128 pixels of the events; set it null"),
        (["model.in_channels=3"], "model.in_channels is 3, .* has 2"),
    ],
)
def test_what_does_not_fit_events_is_refused_in_one_line(shards: Path, words: list[str], message: str) -> None:
    check_inputs(config(shards), 1)
    with pytest.raises(RunError, match=message) as error:
        check_inputs(config(shards, *words), 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", ["data.augment.events=true", "data.frames=time"])
def test_what_is_for_events_is_refused_on_pictures(tmp_path: Path, words: str) -> None:
    write_shards("digits", tmp_path / "digits")
    key = words.partition("=")[0]
    with pytest.raises(RunError, match=f"{key} is not for pictures, and that is what .*digits/train holds"):
        check_inputs(load(None, ["data.dataset=digits", f"data.root={tmp_path / 'digits'}", words]), 1)


def test_frames_follow_the_model_and_the_settings(shards: Path) -> None:
    data = opened(config(shards), "train")
    assert view(config(shards), data) == FrameView(2, "count", (16, 16))
    whole = config(shards, "data.size=null", "data.frames=time", "model.name=hst_2_256", "model.time_steps=null")
    assert view(whole, data) == FrameView(16, "time", (128, 128))
    seen = view(config(shards), data)
    assert seen is not None
    frames = seen.see(data, 0, 0)
    flipped = augmentation(config(shards, "data.augment.flip=1.0", "data.augment.events=false"), data)
    assert all((flipped(frames, 0, i) == frames[..., ::-1]).all() for i in range(20))
    asked = augmentation(config(shards, "data.augment.flip=0.0"), data)
    assert not all((asked(frames, 0, i) == frames).all() for i in range(20))


def test_memory_is_planned_for_frames(shards: Path) -> None:
    """A picture enters once for all time steps, frames enter at each."""
    asked, plan = config(shards, "train.micro_batch=8"), planner.BatchPlan(8, 1, 8, 1, 8, 1)
    with torch.device("meta"):
        options = {"time_steps": 2, "segments": 2, "feedback": "all", "image_size": 16}
        grey = tdformer.create_model("quickstart", in_channels=1, **options)
        frames, picture = (
            planner.price(model, asked, plan, "none", 1) for model in (build_model(asked, opened(asked, "train")), grey)
        )
    assert frames.cost.flops > picture.cost.flops and frames.total > picture.total
    seen = view(asked, data := opened(asked, "train"))
    assert seen is not None
    with stands_for("cuda"):
        assert planner.sent(build_model(asked, data), plan) == 2 * 8 * seen.bytes(2)
