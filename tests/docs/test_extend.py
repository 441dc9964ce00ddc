"""The package of docs/extend.md, which lies outside the tree: it is what the page shows, and what it adds is killed,
resumed, launched, exported and evaluated like our own."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from blocks import ROOT, blocks
from forked import Command
from safetensors import safe_open

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "extend.md"
PLUGINS = "plugins=[./my_lab]"
SHARDED = ("engine.zero_stage=3", "train.threads=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, its configuration and shards, and a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(EXAMPLES / "my_lab", folder / "my_lab")
    shutil.copy(EXAMPLES / "lab.yaml", folder)
    for words in (
        ("prepare", "lab.yaml"),
        ("train", "lab.yaml", "name=whole", "engine.zero_stage=3", "--processes", "2"),
    ):
        done(folder, *words)
    return folder


def done(folder: Path, *words: str) -> str:
    """What a command that succeeds prints."""
    ended = Command(*words, cwd=folder).completed(250)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def same(one: Path, other: Path) -> bool:
    names = ["metrics.jsonl", *(f"checkpoints/step-00000032/{part}.safetensors" for part in ("model", "optimizer"))]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_page_shows_the_package() -> None:
    shown = {block.file: block.text for block in blocks(PAGE) if block.file}
    files = {
        f"my_lab/{path.name}": f"# my_lab/{path.name}\n{path.read_text()}" for path in EXAMPLES.glob("my_lab/*.py")
    }
    assert shown == files | {"lab.yaml": (EXAMPLES / "lab.yaml").read_text()}


def test_the_page_lists_every_registry() -> None:
    """By the place that it is imported from, which need not be the one that it is made in."""
    listed = []
    for _, place in re.findall(r"^\| ([^|]+) \| `([\w.]+)` \|", PAGE.read_text(), re.M):
        module, _, name = place.rpartition(".")
        listed.append(getattr(importlib.import_module(module), name))
    made = []
    for file in (file for package in ("tdformer", "pipelines", "cluster") for file in (ROOT / package).rglob("*.py")):
        for name in re.findall(r"^([A-Z_]+)\b.* = Registry\(", file.read_text(), re.M):
            made.append(getattr(importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts)), name))
    assert {*map(id, listed)} == {*map(id, made)} and len(listed) == len(made)


def test_what_it_adds_reaches_the_run(place: Path) -> None:
    run = place / "runs" / "whole"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["lr"] for row in steps] == [0.03 * 0.5 ** int(4 * i / 32) for i in range(32)]
    assert all(0 <= row["clipped"] <= 1 for row in steps)
    assert (run / "firing_and_loss.png").read_bytes().startswith(b"\x89PNG")
    assert rows[-1]["eval_accuracy"] > 0.9  # low and high tones are told apart


def test_a_launched_run_that_was_killed_goes_on_with_the_code_that_it_was_launched_with(place: Path) -> None:
    run = place / "runs" / "launched"
    done(
        place,
        "launch",
        "lab.yaml",
        "name=launched",
        "engine.zero_stage=3",
        "--processes-per-node",
        "2",
        "--where",
        "local",
    )
    while not (run / "checkpoints" / "step-00000008").exists():
        time.sleep(0.05)
    for pid in pids(run):
        subprocess.run(["kill", "-KILL", str(pid)], check=False)
    schedules = place / "my_lab" / "schedules.py"
    mine = schedules.read_text()
    try:
        schedules.write_text(mine.replace("0.5", "0.25"))  # after the launch, which has its own copy
        assert (run / "code" / "my_lab" / "schedules.py").read_text() == mine
        refused = Command("resume", str(run), cwd=place).completed()
        assert refused.returncode == 2 and "plugins" in refused.stderr and refused.stderr.count("\n") == 1
    finally:
        schedules.write_text(mine)
    done(place, "resume", str(run), PLUGINS)
    done(place, "logs", str(run), "--follow")
    assert same(run, place / "runs" / "whole")


def pids(run: Path) -> list[int]:
    """The processes that have the run's code."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if str(run).encode() in words:
            found.append(int(folder.name))
    return found


def test_an_export_names_what_it_needs_and_is_evaluated_with_it(place: Path) -> None:
    run = Path("runs") / "whole"
    done(place, "export", str(run), "lab.safetensors", PLUGINS)
    with safe_open(place / "lab.safetensors", "pt") as file:
        assert "my_lab" in str(file.metadata()) or "my_lab" in (place / "lab.safetensors.json").read_text()
        options = json.loads(file.metadata()["tdformer"])
        assert {key: options[key] for key in ("width", "depths", "kernel")} == {"width": 32, "depths": [2], "kernel": 5}
        assert file.get_tensor("backbone.entry.current.conv.weight").shape == (32, 3, 5, 5)
    for source in ("lab.safetensors", str(run)):
        refused = Command("eval", source, cwd=place).completed()
        assert refused.returncode == 2 and "plugins" in refused.stderr and refused.stderr.count("\n") == 1
    for word, why in (("model.own.kernel=3", "trained with {kernel: 5}"), ("model.width=16", "trained with 32")):
        refused = Command("eval", "lab.safetensors", PLUGINS, word, cwd=place).completed()
        assert refused.returncode == 2 and why in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr
    done(place, "export", str(run), "lab.pt2", PLUGINS, "--batch", "16")  # of frames with three channels
    rows = [json.loads(done(place, "eval", source, PLUGINS)) for source in ("lab.safetensors", "lab.pt2", str(run))]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] == rows[2]["accuracy"] > 0.9
    for number, name in enumerate(("low", "high")):
        sound = np.ones((4, 3, 8, 8), np.int8)
        sound[:, :, 4 * number : 4 * number + 4] += 4
        np.save(place / f"{name}.npy", sound)
    for source in ("lab.safetensors", "lab.pt2", str(run)):
        refused = Command("predict", source, "low.npy", cwd=place).completed()
        assert refused.returncode == 2 and "plugins" in refused.stderr and refused.stderr.count("\n") == 1
        said = done(place, "predict", source, "low.npy", "high.npy", PLUGINS, "--json").splitlines()
        assert [json.loads(row)["top"][0]["class"] for row in said] == ["low", "high"]


def test_names_that_are_not_there_are_told_with_those_that_are(place: Path) -> None:
    for wrong, named in (
        ("train.optimizer=radam2", "radam"),
        ("train.schedule=halve", "halves"),
        ("recompute.policy=alternat", "alternate"),
        ("train.hooks=[clippe]", "clipped"),
        ("log.figures=[firing]", "firing_and_loss"),
        ("model.name=column_2", "column_2_16"),
        ("model.own.kernle=3", "no option 'kernle'; did you mean 'kernel'?"),
        ("model.own.kernel=three", "kernel is 'three'; give a int, such as 3"),
        ("model.width=33", "width is 33, and it is a multiple of 2; the nearest is 34"),
        ("model.heads=4", "heads is 4, and column_2_16 has no such choice"),
        ("data.dataset=tone", "tones"),
    ):
        refused = Command("train", "lab.yaml", "name=none", wrong, cwd=place).completed()
        assert refused.returncode == 2 and named in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1
    assert not (place / "runs" / "none").exists()
