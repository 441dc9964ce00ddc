"""Weights that an argument names: what FILE, RUN and RUN@STEP mean, also where a name looks like another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tdformer
from cluster.config import flat, load
from cluster.errors import RunError
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.weights import located, read, settle
from tdformer.errors import ModelError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two checkpoints; of the second there are averaged weights, which are zeros."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "a@b")
    config = load("digits", ["name=a@b"])
    folder.open(config)
    model = tdformer.create_model("quickstart")
    weights = model.state_dict()
    state = {"format": checkpoint.FORMAT, "model": model.config, "config": flat(config), "classes": ["x", "y"]}
    checkpoint.save(folder.checkpoints, 3, {"model": weights}, dict(state), keep=9)
    zeros = {name: torch.zeros_like(value) for name, value in weights.items()}
    checkpoint.save(folder.checkpoints, 12, {"model": weights, "ema": zeros}, dict(state), keep=9)
    return folder.path


def test_a_run_means_its_newest_checkpoint_and_a_step_that_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest, third = located(run), located(f"{run}@3")
    assert str(newest) == f"{run}@12" and str(third) == f"{run}@3" and newest.run == third.run == run
    assert located(str(newest)) == newest and newest.settings == run / "config.yaml"
    folder = located(run / "checkpoints" / "step-00000003")
    assert folder.path == third.path and folder.run is not None and folder.run.samefile(run)
    monkeypatch.chdir(run / "checkpoints")
    assert str(located("step-00000003")) == "..@3"


def test_averaged_weights_come_first_and_the_rest_is_what_the_checkpoint_says(run: Path) -> None:
    newest, third = read(located(run)), read(located(f"{run}@3"))
    assert not any(value.any() for value in newest.weights.values()) and third.weights["head.weight"].any()
    assert newest.digest != third.digest and newest.weights.keys() == third.weights.keys()
    assert third.options is not None and third.options["name"] == "quickstart" and third.step == 3
    assert third.classes == ["x", "y"] and third.config(["seed=5"]).seed == 5


def test_a_file_is_meant_as_it_is(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "m@12.safetensors"
    model = tdformer.create_model("quickstart", time_steps=2)
    tdformer.save_pretrained(model, file)
    found = read(located(file))
    assert located(file).run is None and str(located(file)) == str(file)
    assert found.options == model.config and found.settings is None and found.step is None
    with pytest.raises(RunError, match="has no description beside it, as `tdformer export` writes; give the run or"):
        found.config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("RUN@4", "has no checkpoint of step 4; it has those of step 3 or 12$"),
        ("RUN@", "has no checkpoint of step empty; it has"),
        ("RUN@-3", "has no checkpoint of step -3"),
        ("RUN@99999999999999999999", "has no checkpoint of step 9+; it has"),
        ("RUN/checkpoints", "is neither a run folder nor a checkpoint in one; give runs/NAME or runs/NAME@STEP$"),
        ("nowhere", "^nowhere: no such run folder, checkpoint or file; give runs/NAME, runs/NAME@STEP or FILE$"),
        ("nowhere@3", "^nowhere@3: no such run folder, checkpoint or file"),
    ],
)
def test_what_is_none_of_them(run: Path, given: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        located(given.replace("RUN", str(run)))
    assert "\n" not in str(error.value)


def test_a_run_without_a_checkpoint_and_a_program(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.open(load("digits", ["name=new"]))
    with pytest.raises(RunError, match="new has no checkpoint yet; train it first$"):
        located(folder.path)
    (tmp_path / "m.onnx").touch()
    with pytest.raises(RunError, match="m.onnx is a program, whose weights are folded into it; give a .safetensors"):
        read(located(tmp_path / "m.onnx"))
    (tmp_path / "m.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a readable checkpoint"):
        read(located(tmp_path / "m.pt"))


def test_which_weights_a_run_begins_with_is_pinned_by_their_digest(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "tuned")

    def settled(*words: str) -> tuple[str | None, str | None]:
        config = load("digits", ["name=tuned", f"runs_dir={tmp_path}", *words])
        settle(folder, config)
        return config.model.weights, config.model.weights_sha256

    digest = read(located(f"{run}@3")).digest
    assert settled() == (None, None)
    assert settled(f"model.weights={run}@3") == (f"{run}@3", digest)
    assert settled(f"model.weights={run}") == (f"{run}@12", read(located(run)).digest)
    assert settled(f"model.weights={run}/checkpoints/step-00000003")[1] == digest
    with pytest.raises(RunError, match="model.weights_sha256 is 0{64}; give the weights that are meant"):
        settled(f"model.weights={run}@3", f"model.weights_sha256={'0' * 64}")
