"""What an earlier version wrote is read for ever: shards, a run with its checkpoint, and an exported model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Command

import tdformer
from cluster.run import checkpoint
from pipelines.store import tar_writer
from pipelines.store.tars import TarDataset
from tdformer import registry
from tdformer.backbones import Entry, Spikformer, SpikformerSizes
from tdformer.plugins import Registry

OLD = Path(__file__).parents[2] / "data" / "7590ad3"
TINY = Entry(Spikformer, SpikformerSizes(8, 1, 2, (False, False, True, True)), 16, 3, 2)
PROGRAM = """
from tdformer.backbones import MODELS, Entry, Spikformer, SpikformerSizes
MODELS.register("tiny", Entry(Spikformer, SpikformerSizes(8, 1, 2, (False, False, True, True)), 16, 3, 2))
from cluster.cli import main
main()
"""
EVALUATED = {"samples": 6, "accuracy": 5 / 6, "loss": pytest.approx(0.5809279282887777, abs=1e-5)}
"""The averaged weights of step 28, by the version that wrote them."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "old")


@pytest.fixture
def command(old: Path) -> Callable[..., str]:
    """Run `tdformer WORDS`, which knows the model, beside the old files; returns what it printed."""

    def run(*words: str) -> str:
        done = Command(*words, cwd=old, program=PROGRAM).completed()
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_shards_are_read(old: Path) -> None:
    assert [tar_writer.verify(old / "shards" / split) for split in ("train", "test")] == [12, 6]
    data = TarDataset(old / "shards" / "train")
    assert data.facts["format"] == 2 and data.class_names == ["columns", "rows"]
    for i in range(12):
        picture = data.image(i)
        same_along = 2 if data.labels[i] else 1  # a row has one colour
        assert picture.shape == (3, 16, 16) and (picture.std(same_along) == 0).all() and picture.std() > 0


def test_the_run_goes_on(old: Path, command: Callable[..., str]) -> None:
    """From its checkpoint to its end: rows before it stay as they are, and the last two steps end as they did."""
    before = (old / "runs/run/metrics.jsonl").read_bytes()
    (saved,) = checkpoint.complete(old / "runs/run/checkpoints")
    state = checkpoint.load(saved)[1]
    assert "format" not in state and state["state"]["step"] == 28
    command("train", "recipe.yaml")
    after = (old / "runs/run/metrics.jsonl").read_bytes()
    kept = state["state"]["metrics_bytes"]
    assert 0 < kept < len(before) and after[:kept] == before[:kept]
    expected, found = ([json.loads(row) for row in rows[kept:].splitlines()] for rows in (before, after))
    assert len(found) == len(expected) == 2
    for row, was in zip(found, expected, strict=True):
        for key in was.keys() - {"firing_rate", "silent"}:
            assert row[key] == pytest.approx(was[key], rel=1e-2), key
    steps = checkpoint.complete(old / "runs/run/checkpoints")
    assert [checkpoint.step_of(path) for path in steps] == [30, 28]
    assert checkpoint.load(steps[0])[1]["format"] == checkpoint.FORMAT


def test_the_run_is_evaluated(command: Callable[..., str]) -> None:
    found = json.loads(command("eval", "runs/run"))
    assert found == {"checkpoint": "runs/run/checkpoints/step-00000028"} | EVALUATED


def test_the_exported_model_is_evaluated(command: Callable[..., str]) -> None:
    found = json.loads(command("eval", "model.safetensors"))
    assert found == {"file": "model.safetensors", "step": 28} | EVALUATED


def test_the_exported_model_is_loaded(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: Registry[Entry[Any]] = Registry("model")
    models.register("tiny", TINY)
    monkeypatch.setattr(registry, "MODELS", models)
    model = tdformer.from_pretrained(old / "model.safetensors")
    weights: dict[str, Any] = checkpoint.load_weights(old / "runs/run/checkpoints/step-00000028")[0]
    own = model.state_dict()
    assert own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)
