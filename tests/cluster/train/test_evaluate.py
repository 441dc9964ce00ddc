"""Evaluation: every setting acts or is refused by name, and classes are compared by name wherever data is met."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import gestures
from firing import few_digits, save

import tdformer
from cluster.build.data import opened
from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.errors import RunError
from cluster.results.export import evaluate_export, export
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.train.evaluate import evaluate_run
from pipelines.errors import DataError

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, image_size: null}
data: {dataset: digits}
train: {global_batch: 120, threads: 1, alphas: [0.4, 0.6]}
"""
PLAIN = ("model.time_steps=1", "model.segments=1", "model.feedback=none", "train.alphas=null")
EXPORTED = ("m.safetensors", "m.pt", "m.pt2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards in data/digits, a run of them, its exports, and a program of a plain run."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "recipe.yaml").write_text(RECIPE)
    few_digits(folder / "data" / "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = load("recipe.yaml")
        data = opened(config, "test")
        save(Path("run"), config, data, classes=data.class_names)
        for file in EXPORTED[:2]:
            export(Path("run"), Path(file))
        plain = load("recipe.yaml", PLAIN)
        save(Path("plain"), plain, data, classes=data.class_names)
        export(Path("plain"), Path("m.pt2"), batch=100)
    return folder


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_the_model_fires_and_every_format_says_the_same() -> None:
    for file in EXPORTED:
        [found] = evaluate_run("plain" if file == "m.pt2" else "run")
        exported = evaluate_export(Path(file))
        assert found["accuracy"] > 0.6
        assert exported["accuracy"] == found["accuracy"] and exported["loss"] == pytest.approx(found["loss"], rel=1e-6)


# What evaluation does otherwise: the words without the setting, and with it.
ACTS: dict[str, tuple[list[str], list[str]]] = {
    "model.time_steps": ([], ["model.time_steps=4"]),
    "model.segments": (["model.time_steps=4"], ["model.segments=4", "model.time_steps=4"]),
    "model.clamp": ([], ["model.clamp=[0.1,0.2]"]),
    "model.tau": ([], ["model.tau=1.5"]),
    "model.threshold": ([], ["model.threshold=1.2"]),
    "model.v_reset": ([], ["model.v_reset=soft"]),
    "model.leaky_proj_lif": ([], ["model.leaky_proj_lif=true"]),
    "model.border_dtype": ([], ["model.border_dtype=bf16"]),
    "data.size": ([], ["data.size=16"]),
    "data.crop_ratio": (["data.size=16"], ["data.size=16", "data.crop_ratio=0.6"]),
    "train.precision": ([], ["train.precision=bf16"]),
    "train.micro_batch": (["model.leaky_proj_lif=true"], ["model.leaky_proj_lif=true", "train.micro_batch=24"]),
    "train.global_batch": (["model.leaky_proj_lif=true"], ["model.leaky_proj_lif=true", "train.global_batch=48"]),
}
# Those that say where the data lie, or how they are read: other files are opened, or the numbers are the same.
OPENS = {
    "data.dataset=cifar10": "data/cifar10/test/index.json is missing",
    "data.root=elsewhere": "elsewhere/test/index.json is missing",
    "data.format=ffcv": "test.*beton is missing",
}
READS = (
    *("data.workers=1", "data.window=3", "data.cache=elsewhere", "data.cache_gb=1", "data.fetch.tries=2"),
    *("data.fetch.pause=2", "data.fetch.timeout=3", "train.threads=2", "plugins=[json]"),
)
# A valid value of each other setting whose default's neighbour is none.
OTHERS = {
    "checkpoint.every_steps": 5,
    "name": "other",
    "model.weights_sha256": "0" * 64,
    "train.freeze": "[head]",
    "train.hooks": "[firing]",
    "log.figures": "[curves]",
    "log.profile_steps": "[2]",
    "recompute.policy": "block",
    "train.optimizer": "sgd",
    "train.schedule": "linear",
    "seed": 1,
    "runs_dir": "other",
    "model.name": "hst_4_384",
    "model.width": 48,
    "model.depths": "[1,2,1]",
    "model.heads": 2,
    "model.mlp_ratio": 2.0,
    "model.own": "{gain: 1}",
    "model.num_classes": 12,
    "model.in_channels": 3,
    "model.image_size": 16,
    "model.feedback": "none",
    "model.cm": 2,
    "model.pm": 2,
    "model.mixer": "add",
    "model.neuron": "plif",
    "model.surrogate": "arctan",
    "model.alpha": 2.0,
    "model.detach_reset": "false",
    "model.segment_norm": "shared",
    "data.source": "raw",
    "data.frames": "time",
    "data.augment.scale": "[0.5,1.0]",
    "data.augment.ratio": "[0.9,1.1]",
    "data.augment.rand_augment": "rand-m9",
    "data.augment.rand_augment_ops": "[Invert]",
    "train.betas": "[0.8,0.99]",
    "train.alphas": "[0.1,0.9]",
    "train.norm_batch": 24,
    "train.lr": 0.01,
    "train.min_lr": 1e-6,
    "train.warmup_epochs": 0.5,
    "recompute.memory": 8.0,
    "health.firing_rate": "[0.1,0.2]",
    "site.minutes": 90,
    "site.memory_gb": 8.0,
    "site.cpus_per_process": 2,
    "site.setup": "[true]",
    "site.sbatch": "[exclusive]",
    "site.srun": "[--mpi=none]",
}
NAMED = {key: words for key, (_, words) in ACTS.items()} | {w.partition("=")[0]: [w] for w in (*OPENS, *READS)}


def settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for f in fields(section):
        value, key = getattr(section, f.name), prefix + f.name
        if is_dataclass(value):
            yield from settings(value, key + ".")
        else:
            yield key, value, f.metadata


def another(key: str, value: Any, limits: Any) -> str:
    """An override that gives the setting another valid value."""
    if key in OTHERS:
        value = OTHERS[key]
    elif isinstance(value, bool):
        value = "false" if value else "true"
    elif "choices" in limits:
        value = next(c for c in limits["choices"] if c != value)
    elif isinstance(value, int):
        value += 1
    elif isinstance(value, float):
        value = value / 2 + (0.2 if limits.get("most") == 1 or "below" in limits else 2.0)
    else:
        assert value is None or isinstance(value, str), f"{key} needs an entry in OTHERS"
        value = "other"
    return f"{key}={value}"


SETTINGS = list(settings(Config()))
REFUSED = [another(*setting) for setting in SETTINGS if setting[0] not in NAMED]


def test_the_tables_have_every_setting() -> None:
    keys = [key for key, _, _ in SETTINGS]
    assert sorted(keys) == sorted([*NAMED, *(word.partition("=")[0] for word in REFUSED)]) and len(keys) > 90


def result(source: str, words: list[str]) -> dict[str, Any]:
    row = evaluate_export(Path(source), words) if Path(source).is_file() else next(evaluate_run(source, words))
    return {key: row[key] for key in ("accuracy", "loss", "samples")}


def refused(source: str, words: list[str]) -> str:
    with pytest.raises((RunError, DataError, tdformer.ModelError)) as error:
        result(source, words)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("key", ACTS)
def test_what_evaluation_can_do_is_done(key: str) -> None:
    without, words = (result("run", words) for words in ACTS[key])
    assert abs(words["loss"] - without["loss"]) > 1e-5
    for exported in ("m.safetensors", "m.pt"):
        assert result(exported, ACTS[key][1])["loss"] == pytest.approx(words["loss"], rel=1e-6), exported
    assert "cannot be set for a .pt2 file: its program is fixed" in refused("m.pt2", ACTS[key][1])


def test_fp16_is_nearer_to_fp32_than_bf16() -> None:
    """Not near: a potential at its threshold fires or not."""
    plain, fp16, bf16 = (result("run", [f"train.precision={precision}"]) for precision in ("fp32", "fp16", "bf16"))
    assert plain["loss"] != fp16["loss"] and plain["accuracy"] > fp16["accuracy"] > bf16["accuracy"]
    assert result("m.pt", ["train.precision=fp16"]) == fp16


@pytest.mark.parametrize("source", ["run", *EXPORTED])
def test_what_says_where_data_lie_opens_other_files_or_gives_the_same_numbers(source: str) -> None:
    for word, message in OPENS.items():
        assert re.search(message, refused(source, [word])), word
    shutil.copytree("data/digits", "moved", dirs_exist_ok=True)
    assert result(source, [*READS, "data.root=moved"]) == result(source, [])


NAMING = "evaluation|the data in|for pictures|is fixed|of weights to begin with"


@pytest.mark.parametrize("source", ["run", *EXPORTED])
def test_every_other_setting_is_refused_by_its_name(source: str) -> None:
    for word in REFUSED if source == "run" else REFUSED[::8]:
        key = word.partition("=")[0]
        line = refused(source, [word])
        assert line.startswith(f"{key} ") and re.search(NAMING, line), (
            word,
            line,
        )


def test_an_option_that_could_have_no_effect_is_refused(tmp_path: Path) -> None:
    config = load("recipe.yaml", ["model.neuron=plif", "train.micro_batch=20"])
    plif = save(tmp_path / "plif", config, opened(config, "test"))
    words = ["model.segments=1", "model.clamp=[0.1,0.2]"]
    assert refused("run", words).startswith("model.clamp changes nothing in this evaluation: no feedback")
    words = ["model.segments=1", "model.border_dtype=bf16"]
    assert "there is one segment, and no border" in refused("run", words)
    assert "without data.size pictures are taken" in refused("run", ["data.crop_ratio=0.5"])
    assert "a plif neuron has learned its own" in refused(str(plif), ["model.tau=3"])
    assert "train.micro_batch is the batch" in refused(str(plif), ["train.global_batch=40"])


def test_equal_settings_are_no_change_and_null_is_the_model_s_own() -> None:
    plain = result("run", [])
    words = ["model.name=quickstart", "model.num_classes=10", "model.alpha=4", "train.epochs=1", "model.pm=1"]
    assert result("run", [*words, "model.threshold=null"]) == plain
    assert result("run", ["model.time_steps=null"]) == result("run", ["model.time_steps=4"])


def test_the_seed_is_of_corruptions_that_are_made_here() -> None:
    one, other = (list(islice(evaluate_run("run", words, ["gaussian_noise"]), 2)) for words in ([], ["seed=1"]))
    assert one[0]["loss"] == other[0]["loss"] and one[1]["loss"] != other[1]["loss"]


def test_events_are_counted_as_asked(tmp_path: Path) -> None:
    gestures(tmp_path / "source", {"train": 1, "test": 2})
    write_shards("dvs128_gesture", tmp_path / "shards", tmp_path / "source")
    words = ["data.dataset=dvs128_gesture", f"data.root={tmp_path}/shards", "data.size=16"]
    config = load("recipe.yaml", words)
    run = str(save(tmp_path / "run", config, opened(config, "test")))
    plain = result(run, [])
    for word in ("data.frames=time", "model.time_steps=4", "data.size=32"):
        assert abs(result(run, [word])["loss"] - plain["loss"]) > 1e-5, word
    assert "data.crop_ratio is not for events" in refused(run, ["data.crop_ratio=0.5"])


# Classes by name


NAMES = [str(i) for i in range(10)]
TURNED = random.Random(0).sample(range(10), 10)


@pytest.mark.parametrize("source", ["run", "run/checkpoints/step-00000007", *EXPORTED])
def test_classes_are_compared_by_name(source: str, tmp_path: Path) -> None:
    names = [NAMES[TURNED.index(i)] for i in range(10)]  # the class that has the number i now
    plain, turned = result(source, []), result(source, [f"data.root={few_digits(tmp_path / 'turned', names, TURNED)}"])
    assert plain["accuracy"] > 0.6 and turned == plain
    wrong = result(
        source, [f"data.root={few_digits(tmp_path / 'wrong', names)}"]
    )  # the pictures of 0 are called otherwise
    assert wrong["accuracy"] < 0.3
    renamed = few_digits(tmp_path / "renamed", [*NAMES[:3], "drei", *NAMES[4:]])
    line = refused(source, [f"data.root={renamed}"])
    assert f"{renamed}/test has other classes than" in line and "'3' is missing, 'drei' is extra" in line


def test_a_checkpoint_that_names_no_classes_is_evaluated_with_a_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load("recipe.yaml")
    save(tmp_path / "old", config, opened(config, "test"))
    assert result(str(tmp_path / "old"), []) == result("run", [])
    export(tmp_path / "old", tmp_path / "m.pt")
    assert result(str(tmp_path / "m.pt"), []) == result("run", [])
    lines = [line for line in capsys.readouterr().err.splitlines() if "does not name its classes" in line]
    assert len(lines) == 2


def test_a_run_keeps_its_classes_and_a_wider_head_learns(cli: Callable[..., Any], place: Path, tmp_path: Path) -> None:
    """A head of 16 for 10 classes; the run goes on with the data that it began with, and with no other."""
    words = ("name=wide", "model.num_classes=16", "train.global_batch=40", "train.lr=1e-5")
    words = (*words, "log.every_steps=1", "checkpoint.every_steps=2", "train.min_lr=1e-6")
    train = ("train", place / "recipe.yaml", f"data.root={place}/data/digits", *words)
    done = cli(*train)
    assert done.returncode == 0, done.stderr
    run = RunFolder(tmp_path / "runs/wide")
    rows = list(run.metrics.read())
    assert rows[0]["loss"] == pytest.approx(np.log(16), abs=0.3)  # smoothing spreads over the head's classes
    assert result(str(run.path), [])["accuracy"] == rows[-1]["eval_accuracy"]
    export(run.path, tmp_path / "m.pt")
    assert torch.load(tmp_path / "m.pt")["head.weight"].shape == (16, 96)
    assert json.loads((tmp_path / "m.pt.json").read_text())["classes"] == NAMES

    newest, before = checkpoint.complete(run.checkpoints)
    shutil.rmtree(newest)
    run.summary_file.unlink()
    renamed = few_digits(tmp_path / "renamed", [*NAMES[:3], "drei", *NAMES[4:]])
    done = cli(*train, f"data.root={renamed}")
    assert done.returncode == 2 and "'3' is missing, 'drei' is extra" in done.stderr and done.stderr.count("\n") == 1
    assert checkpoint.complete(run.checkpoints) == [before]
    done = cli(*train)
    assert done.returncode == 0 and "goes on from step 2" in done.stdout, done.stderr
    assert list(run.metrics.read()) == rows
