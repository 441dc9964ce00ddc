"""Runs that begin with the weights of another: a chain of them, killed in between; ZeRO stages; parts frozen."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import Command
from PIL import Image
from same_run import assert_equal

from cluster.errors import RunError
from cluster.results.export import export
from cluster.results.predict import predict
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.weights import located, read
from cluster.train.evaluate import evaluate_run

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 10, norm_batch: 5, lr: 0.003, ema_decay: 0.5, threads: 1}
checkpoint: {every_steps: 1}
log: {curves: false, every_steps: 1}
"""
TUNED = ("model.time_steps=4", "model.segments=2", "model.feedback=all")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, few_digits: Path) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    return folder / "recipe.yaml"


def start(recipe: Path, *words: object) -> Command:
    """In the folder of the recipe, so that paths can be short."""
    return Command(*words, cwd=recipe.parent, merged=True)


def done(recipe: Path, *words: object) -> str:
    process = start(recipe, *words)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def refused(recipe: Path, *words: object) -> str:
    process = start(recipe, *words)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 2 and output.count("error: ") == 1, output
    return output[output.index("error: ") :]


@pytest.fixture(scope="module")
def first(recipe: Path) -> Path:
    """A run to begin with, of one time step and without feedback."""
    done(recipe, "train", recipe, "runs_dir=first")
    return recipe.parent / "first" / "run"


def newest(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    found = checkpoint.newest_good(run / "checkpoints", pytest.fail)
    assert found is not None
    return checkpoint.load(found)[0]


def killed_once(recipe: Path, *words: object, runs_dir: str) -> RunFolder:
    """A run that is killed once it has a checkpoint, before its last step."""
    process, folder = start(recipe, *words, f"runs_dir={runs_dir}"), RunFolder(recipe.parent / runs_dir / "run")
    deadline = time.monotonic() + 120
    while not list(folder.checkpoints.glob("step-*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert 1 <= (folder.saved_step() or 0) < 7
    return folder


def test_a_chain_of_runs_killed_in_each(recipe: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T = 1; T = 4 with feedback; larger pictures, from a file; a prediction. Beside the same without kills."""
    place = recipe.parent
    monkeypatch.chdir(place)
    killed_once(recipe, "train", recipe, runs_dir="first-killed")
    assert "goes on from step" in done(recipe, "train", recipe, "runs_dir=first-killed")
    assert_equal(place / "first", place / "first-killed")

    words = ["train", recipe, "model.weights=first/run", *TUNED]
    said = done(recipe, *words, "runs_dir=whole")
    report = json.loads((place / "whole/run/weights.json").read_text())
    assert report["weights"] == "first/run@7" and report["sha256"] == read(located(first)).digest
    assert f"begins with first/run@7 (SHA-256 {report['sha256'][:12]}): " in said and "(feedback)" in said
    assert report["options"] == {"time_steps": [1, 4], "segments": [1, 2], "feedback": [[], [0]]}
    assert torch.equal(newest(first)["ema"]["head.weight"], read(located(first)).weights["head.weight"])

    # What it began with is gone: its own checkpoint is enough.
    words[2] = "model.weights=first-killed/run@7"
    killed = killed_once(recipe, *words, runs_dir="killed")
    shutil.rmtree(place / "first-killed")
    refusal = refused(recipe, *words[:2], "runs_dir=killed", *TUNED)
    assert "holds a run with other settings: model.weights_sha256" in refusal
    assert "goes on from step" in done(recipe, *words, "runs_dir=killed")
    assert_equal(place / "whole", place / "killed")
    assert {row["weights"] for row in killed.starts.read()} == {report["sha256"]}

    export("whole/run@7", Path("tuned.safetensors"))
    large = ["train", recipe, "model.weights=tuned.safetensors", *TUNED, "data.size=16"]
    large += ["train.freeze=[backbone.embeds.0]"]
    done(recipe, *large, "runs_dir=large")
    report = json.loads((place / "large/run/weights.json").read_text())
    assert report["options"] == {} and report["report"]["fresh"] == {} and report["step"] == 7
    assert report["sha256"] == read(located("whole/run")).digest
    large[2] = "model.weights=killed/run"
    killed_once(recipe, *large, runs_dir="large-killed")
    assert "goes on from step" in done(recipe, *large, "runs_dir=large-killed")
    assert_equal(place / "large", place / "large-killed")

    # Files of it give its own numbers, and say the same of a picture.
    export("large/run", Path("large.pt"))
    export("large.pt", Path("again.safetensors"))
    export("large-killed/run", Path("killed.safetensors"))
    row, again = (
        json.loads(done(recipe, "eval", what).splitlines()[-1]) for what in ("large/run@7", "again.safetensors")
    )
    del row["checkpoint"]
    assert again == {"file": "again.safetensors", "step": 7} | row
    Image.fromarray(np.arange(0, 256, 4, np.uint8).reshape(8, 8)).save("picture.png")
    sources = ("large/run@7", "large.pt", "again.safetensors", "killed.safetensors")
    predicted, *others = [list(predict(what, [Path("picture.png")])) for what in sources]
    assert len(predicted[0]["logits"]) == 10 and others == [predicted] * 3
    with pytest.raises(RunError, match="large/run has no checkpoint of step 99; it has those of step"):
        next(evaluate_run("large/run@99"))
    killed_in_export_and_prediction(recipe, predicted)


KILLED = """\
import os, signal
from cluster.cli import main

replace, left = os.replace, MOMENT

def counted(*names):
    global left
    if left:
        replace(*names)
    left -= 1
    if left < 1:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = counted
main()
"""
"""Ends a command before its first rename, or right after the one of that number."""


def killed_in_export_and_prediction(recipe: Path, predicted: list[dict[str, Any]]) -> None:
    """Of the last run of a chain: the same command is given again, and nothing tells that one was killed. An export
    also where it replaces an earlier one."""
    names, folder = [f"large.pt{more}" for more in ("", ".md", ".json")], recipe.parent
    words = ["export", "large/run", "exports/large.pt"]
    for moment, before in ((0, None), (1, None), (2, None), (1, "whole/run"), (2, "whole/run")):
        (folder / "exports").mkdir()
        if before is not None:
            export(before, Path("exports/large.pt"))
        process = Command(*words, cwd=folder, merged=True, program=KILLED.replace("MOMENT", str(moment)))
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output
        there = {name: (folder / "exports" / name).exists() for name in names}
        assert there == {name: before is not None or number < moment for number, name in enumerate(names)}
        done(recipe, *words)
        for name in names:
            assert (folder / "exports" / name).read_bytes() == (folder / name).read_bytes(), (moment, before, name)
        shutil.rmtree(folder / "exports")

    pictures = [shutil.copy("picture.png", f"{number}.png") for number in range(200)]
    process = Command("predict", "large.pt", "--json", *pictures, "train.micro_batch=1", cwd=folder)
    while process.poll() is None and not process.written():
        time.sleep(0.005)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL and 0 < output.count("\n") < len(pictures)
    again = json.loads(done(recipe, "predict", "large.pt", "--json", pictures[0]))
    assert again["logits"] == predicted[0]["logits"]


def parts_of(run: Path) -> dict[str, Any]:
    metrics = RunFolder(run).metrics.read()
    return {"loss": metrics[0]["loss"], **newest(run)}


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Of the first step, at each stage."""
    return []


@pytest.mark.parametrize(("processes", "stage"), [(1, 0), (2, 1), (2, 2), (2, 3)])
def test_every_stage_begins_alike_and_leaves_what_is_frozen(
    recipe: Path, first: Path, losses: list[float], processes: int, stage: int
) -> None:
    """A part, its statistics included, one layer, and the head's bias; moments are kept of the others alone. Taken up
    after a step, it goes on to the same bits: at the two ends."""
    place, name = recipe.parent, f"stage-{stage}"
    frozen = ("backbone.embeds.0.", "backbone.stages.2.0.attention.q.current.conv.", "head.bias")
    listed = ",".join(name.rstrip(".") for name in frozen)
    words = ["train", recipe, f"model.weights={first}", *TUNED, f"train.freeze=[{listed}]", "train.clip_grad=1"]
    words += ["--processes", processes, f"engine.zero_stage={stage}", "train.layer_decay=0.9", "checkpoint.keep=9"]
    said = done(recipe, *words, f"runs_dir={name}")
    assert " M trained)" in said
    found = parts_of(place / name / "run")
    losses.append(found["loss"])
    assert losses == [pytest.approx(losses[0], rel=1e-5)] * len(losses)
    begun, model = read(located(first)).weights, found["model"]
    for key, value in model.items():
        if key.startswith(frozen):
            given = begun[key].expand_as(value) if "running" in key else begun[key]
            assert torch.equal(value, given), key
        elif key in begun and value.dim() > 1 and "running" not in key:
            assert not torch.equal(value, begun[key]), key
    trained = {key for key in model if not key.startswith(frozen) and "running" not in key}
    assert {key.split(".", 1)[1] for key in found["optimizer"]} == trained
    if stage in (1, 2):
        return
    shutil.copytree(place / name, place / f"{name}-again")
    again = place / f"{name}-again/run"
    (again / "summary.json").unlink()
    for path in checkpoint.complete(again / "checkpoints")[:-1]:
        shutil.rmtree(path)
    assert "goes on from step 1 of 7" in done(recipe, *words, f"runs_dir={name}-again")
    assert_equal(place / name, place / f"{name}-again")


def test_the_head_alone(recipe: Path, first: Path) -> None:
    """Nothing before it needs a gradient, and no statistics move."""
    done(recipe, "train", recipe, f"model.weights={first}", "train.freeze=[backbone]", "runs_dir=probe")
    begun, found = read(located(first)).weights, newest(recipe.parent / "probe/run")
    assert {key for key, value in found["model"].items() if not torch.equal(value, begun[key])} == {
        "head.weight",
        "head.bias",
    }
    refusal = refused(recipe, "train", recipe, "train.freeze=[backbone.embed.0]", "runs_dir=none")
    assert "freeze names 'backbone.embed.0', which is no part of quickstart" in refusal
    assert "the nearest is backbone.embeds.0" in refusal
    assert "leaves nothing" in refused(recipe, "train", recipe, "train.freeze=[backbone,head]", "runs_dir=none")
    assert not (recipe.parent / "none").exists()
