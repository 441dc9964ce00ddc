"""Weights that nobody has described, evaluated, used and exported: published ones, imported ones, an export alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from firing import digits_run

import tdformer
from benchmarks.published import Published
from cluster.errors import RunError
from cluster.results.export import evaluate_export, export
from cluster.results.predict import predict
from cluster.run.weights import located, read
from cluster.train.evaluate import evaluate_run
from pipelines.errors import DataError
from pipelines.store.tars import TarDataset
from tdformer import ModelError
from tdformer.digest import described

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2}
data: {dataset: digits}
train: {global_batch: 60, threads: 1}
"""
MODEL = ["model.name=quickstart", "model.time_steps=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that fires; its weights with the published names, as training saves them beside worse ones; and
    as they are imported. Some pictures of its test set."""
    place = tmp_path_factory.mktemp("undescribed")
    run = digits_run(place, RECIPE)
    with torch.device("meta"):
        network, model = Published("quickstart", num_classes=10), tdformer.create_model("quickstart", in_channels=3)
        report = tdformer.load_pretrained(model, {k: v.expand_as(v) for k, v in _zeros(network).items()})
    theirs = [name for name in network.state_dict() if name not in report.skipped]
    kept = read(located(run.path)).weights
    weights = {
        name: kept[ours].squeeze(0) if "running" in ours else kept[ours]
        for name, ours in zip(theirs, report.loaded, strict=True)
    }
    worse = {f"module.{name}": torch.zeros_like(value) for name, value in weights.items()}
    torch.save({"state_dict": worse, "state_dict_ema": weights, "epoch": 7}, place / "p.pth")
    imported = tdformer.create_model("quickstart", time_steps=2, in_channels=1, image_size=8)
    tdformer.load_pretrained(imported, place / "p.pth")
    tdformer.save_pretrained(imported, place / "i.safetensors")
    data = TarDataset(place / "shards" / "test")
    for i in range(3):
        (place / f"{i}.png").write_bytes(data.read(i)[0])
    return place


def _zeros(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(value.shape, device="cpu") for name, value in network.state_dict().items()}


def on(place: Path) -> list[str]:
    return ["data.dataset=digits", f"data.root={place / 'shards'}"]


def test_it_is_evaluated_as_the_run_that_it_is_of(place: Path) -> None:
    [wanted] = evaluate_run(place / "run")
    assert wanted["accuracy"] > 0.6
    for name, words in (("p.pth", MODEL), ("i.safetensors", [])):
        found = evaluate_export(place / name, [*words, *on(place), "train.global_batch=60"])
        assert found.pop("file") == str(place / name) and found.pop("step") is None
        assert found == {key: value for key, value in wanted.items() if key != "checkpoint"}
    other = evaluate_export(place / "i.safetensors", [*on(place), "model.tau=4"])
    assert other["loss"] != wanted["loss"]


def test_it_predicts_with_what_the_shards_know(place: Path) -> None:
    pictures = [place / f"{i}.png" for i in range(3)]
    wanted = list(predict(place / "run", pictures))
    assert wanted[0]["logits"] != wanted[1]["logits"]
    for name, words in (("p.pth", MODEL), ("i.safetensors", [])):
        assert list(predict(place / name, pictures, [*words, *on(place)])) == wanted


def test_an_export_of_it_needs_nothing_more(place: Path, tmp_path: Path) -> None:
    """Also where the file is moved without what lies beside it."""
    pictures = [place / f"{i}.png" for i in range(3)]
    wanted, run = list(predict(place / "run", pictures)), evaluate_export
    line = export(place / "p.pth", tmp_path / "m.safetensors", overrides=[*MODEL, *on(place)])
    assert line.startswith(f"{tmp_path / 'm.safetensors'}: {place / 'p.pth'}, ")
    about = described(tmp_path / "m.safetensors")
    assert about is not None and about["classes"] == TarDataset(place / "shards" / "test").class_names
    assert (about["dataset"], about["step"], about["run"], about["config_sha256"]) == ("digits", None, None, None)
    page = (tmp_path / "m.safetensors.md").read_text()
    assert "| Checkpoint | `p.pth`, of whose training nothing is known |" in page and "`digits`, 10 classes" in page
    (tmp_path / "alone").mkdir()
    alone = Path(shutil.copy(tmp_path / "m.safetensors", tmp_path / "alone"))
    for file in (tmp_path / "m.safetensors", alone):
        assert list(predict(file, pictures)) == wanted
        assert run(file, on(place)[1:])["accuracy"] == run(place / "i.safetensors", on(place))["accuracy"]
    export(alone, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == alone.read_bytes()
    export(place / "i.safetensors", tmp_path / "bare.pt")
    page = (tmp_path / "bare.pt.md").read_text()
    assert "| Trained on | not kept |" in page and "| Mean, std | not kept |" in page


def test_what_is_missing_or_means_nothing_is_one_line(place: Path, tmp_path: Path) -> None:
    picture, out = place / "0.png", tmp_path / "m.pt"
    ways: dict[str, Any] = {
        "eval": lambda file, words: evaluate_export(file, words),
        "predict": lambda file, words: list(predict(file, [picture], words)),
        "export": lambda file, words: export(file, out, overrides=words),
    }
    data = on(place)
    few = torch.load(place / "p.pth", weights_only=True)["state_dict_ema"]
    torch.save(few | {"head.weight": torch.zeros(3, 96), "head.bias": torch.zeros(3)}, tmp_path / "three.pth")
    for name, file, words, said in (
        ("eval predict export", place / "p.pth", data, "p.pth does not say which model it is of"),
        ("eval predict", place / "p.pth", MODEL, "p.pth does not say what it was trained on; give data.dataset=NAME"),
        ("eval predict", place / "i.safetensors", [], "does not say what it was trained on; give data.dataset=NAME"),
        ("eval predict export", place / "p.pth", ["model.name=hst_4_384", *data], "choose the model it is of"),
        ("eval predict", place / "i.safetensors", ["model.cm=2", *data], "model.cm cannot be set in evaluation"),
        ("eval predict", place / "p.pth", [*MODEL, *data, "model.weights=x"], "model.weights changes nothing in evalu"),
        ("eval predict", place / "p.pth", [*MODEL, *data, "train.lr=1"], "train.lr changes nothing in evaluation"),
        ("export", place / "i.safetensors", ["model.tau=4"], "model.tau changes nothing in an export"),
        ("export", place / "p.pth", [*MODEL, "train.lr=1"], "train.lr changes nothing in an export"),
        ("export", tmp_path / "three.pth", [*MODEL, *data], "has 3 outputs, the data in .* 10 classes"),
        ("eval predict", tmp_path / "three.pth", [*MODEL, *data], "model.num_classes is 3, the data in .* has 10"),
    ):
        for way in name.split():
            with pytest.raises((RunError, ModelError, DataError)) as error:
                ways[way](file, words)
            assert re.search(said, str(error.value)) and "\n" not in str(error.value), (way, str(error.value))
            assert not out.exists()
