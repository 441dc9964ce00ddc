"""What a power cut leaves of each thing that is written: at every moment what was there before, or all that is new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Command
from power import Disk, watched

import tdformer
from cluster.build.shards import write_shards
from cluster.results.export import export
from cluster.run import checkpoint
from cluster.run.records import Rows, write_atomic
from pipelines.raw import catalog
from pipelines.remote import Remote
from pipelines.store import beton_writer, tar_writer
from pipelines.store.cache import Cache, Item
from tdformer import registry
from tdformer.backbones import Entry, Spikformer, SpikformerSizes
from tdformer.plugins import Registry

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests" / "data" / "7590ad3"
PARTS = {"model": {"a.weight": torch.arange(6.0).view(2, 3)}, "optimizer": {"exp_avg.a.weight": torch.ones(2, 3)}}


@contextmanager
def cut_anywhere(root: Path, sound: Callable[[Path], None]) -> Iterator[Disk]:
    """sound: asserts of what a power cut leaves; called with both remains of each moment."""

    def look(disk: Disk) -> None:
        for all_names in (False, True):
            sound(disk.left(all_names))

    with watched(root, look) as disk:
        yield disk


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_a_file_is_the_old_one_or_the_new_one(place: Path) -> None:
    def sound(left: Path) -> None:
        assert (left / "status.json").read_bytes() in (b"old", b"new")

    write_atomic(place / "status.json", b"old")
    with cut_anywhere(place, sound) as disk:
        write_atomic(place / "status.json", b"new")
    assert disk.events == ["sync .status.json.*.tmp", ".status.json.*.tmp -> status.json", "sync ./"]
    assert (disk.left(all_names=False) / "status.json").read_bytes() == b"new"


def test_rows_that_were_synced_stay_and_so_does_their_file(place: Path) -> None:
    rows = Rows(place / "metrics.jsonl")
    with watched(place) as disk:
        rows.append({"step": 1})
        rows.append({"step": 2})
        rows.sync()
        rows.append({"step": 3})
    assert Rows(disk.left(all_names=False) / "metrics.jsonl").read("step") == [{"step": 1}, {"step": 2}]
    assert disk.events == ["sync metrics.jsonl", "sync ./"]


def test_checkpoints_are_whole_and_one_is_always_there(place: Path) -> None:
    """The newest are kept, two at a time; a step is replaced; and what says which is the best names one."""
    root = place / "checkpoints"

    def sound(left: Path) -> None:
        found = checkpoint.complete(left / "checkpoints")
        assert found and [checkpoint.verify(path) for path in found] == [None] * len(found)
        assert (left / "checkpoints" / "latest").read_text() in [f"step-0000000{n}\n" for n in (1, 2, 3)]

    checkpoint.save(root, 1, PARTS, {"step": 1}, 1, best=True)
    for step, keep in ((2, 2), (3, 1)):
        with cut_anywhere(place, sound) as disk:
            checkpoint.save(root, step, PARTS, {"step": step}, keep, best=step == 3)
        left = disk.left(all_names=False) / "checkpoints"
        assert checkpoint.verify(left / f"step-0000000{step}") is None
    hidden, final = "checkpoints/.step-00000003.tmp", "checkpoints/step-00000003"
    files = [f"sync {hidden}/{name}" for name in sorted(path.name for path in (root / "step-00000003").iterdir())]
    assert sorted(disk.events[:4]) == files
    assert disk.events[4:7] == [f"sync {hidden}/", f"{hidden} -> {final}", "sync checkpoints/"]


TRAIN = """
import hashlib, json
from pathlib import Path
from power import watched
from cluster.cli import main

run, seen = Path("runs/run").absolute(), set()

def look(disk):
    for state in run.glob("checkpoints/step-*/state.json"):
        said, metrics = json.loads(state.read_bytes())["state"], run / "metrics.jsonl"
        assert "metrics.jsonl" in disk.names.get(run.stat().st_ino, {})
        durable = disk.content.get(metrics.stat().st_ino, b"")[: said["metrics_bytes"]]
        assert hashlib.sha256(durable).hexdigest() == said["metrics_sha256"], "rows came to the disk later"
        seen.add(state.parent.name)
        Path("seen").write_text(" ".join(sorted(seen)))

with watched(run.parent, look):
    main()
"""


def test_a_checkpoint_of_a_run_comes_after_the_rows_that_it_counts(tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards")
    (tmp_path / "runs").mkdir()
    recipe = {
        "name": "run",
        "model": {"time_steps": 2, "segments": 1},
        "data": {"dataset": "digits", "root": "shards"},
        "train": {"global_batch": 400, "threads": 1},
        "checkpoint": {"every_steps": 2},
        "log": {"every_steps": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    done = Command("train", "recipe.yaml", cwd=tmp_path, program=TRAIN).completed(timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == "step-00000002 step-00000003"


def test_shards_are_all_there_or_not_seen(place: Path) -> None:
    def sound(left: Path) -> None:
        if (left / "test").exists():
            assert tar_writer.verify(left / "test") == 360

    with cut_anywhere(place, sound) as disk:
        tar_writer.write(catalog.get("digits"), "test", place, samples_per_shard=200)
        assert tar_writer.verify(disk.left(all_names=False) / "test") == 360
        tar_writer.write(catalog.get("digits"), "test", place, samples_per_shard=150)
    assert len(list((disk.left(all_names=False) / "test").glob("*.tar"))) == 3
    assert disk.events[-2:] == [".test.tmp -> test", "sync ./"]


def test_an_ffcv_copy_is_whole_or_not_seen(place: Path) -> None:
    pytest.importorskip("ffcv")
    folder = tar_writer.write(catalog.get("digits"), "test", place)

    def sound(left: Path) -> None:
        copy = left / "test" / "test.beton"
        if copy.exists():
            with np.load(beton_writer.checks(copy)) as said:
                assert list(said["crc32"]) == list(beton_writer.crcs(copy))

    with cut_anywhere(place, sound) as disk:
        beton_writer.write(folder)
    assert (disk.left(all_names=False) / "test" / "test.beton").exists()


def test_a_cache_holds_whole_files(place: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    (tmp_path / "shard.tar").write_bytes(content)
    item = Item(Remote(f"file://{tmp_path}") / "shard.tar", len(content), hashlib.sha256(content).hexdigest())

    def sound(left: Path) -> None:
        assert all(path.read_bytes() == content for path in left.glob("*.file"))

    with cut_anywhere(place, sound) as disk:
        assert Cache(place, 10**6).ahead(item, lambda: None)
    part, file = f"{item.sha256}.part", f"{item.sha256}.file"
    assert disk.events == [f"sync {part}", f"{part} -> {file}", "sync ./"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_export_is_whole_or_not_seen(place: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models: Registry[Any] = Registry("model")
    models.register("tiny", Entry(Spikformer, SpikformerSizes(8, 1, 2, (False, False, True, True)), 16, 3, 2))
    monkeypatch.setattr(registry, "MODELS", models)
    out = place / f"model{suffix}"

    def sound(left: Path) -> None:
        if (left / out.name).exists():
            model = tdformer.create_model("tiny", time_steps=2, segments=2, feedback="all", threshold=0.5)
            tdformer.load_pretrained(model, left / out.name)

    with cut_anywhere(place, sound) as disk:
        export(OLD / "runs" / "run", out)
    left = disk.left(all_names=False)
    assert {path.name for path in left.iterdir()} == {out.name, f"{out.name}.json", f"{out.name}.md"}
