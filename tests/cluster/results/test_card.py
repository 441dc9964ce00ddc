"""The model card: what an export says of its weights is so, and the same checkpoint gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import index_files
import pytest
import torch
from firing import digits_run, few_digits, save, tiny
from safetensors import safe_open

import tdformer
from cluster.build.data import input_facts, opened
from cluster.config import load
from cluster.errors import RunError
from cluster.results.export import WRITERS, export
from cluster.run.folder import RunFolder
from pipelines.loader import to_device
from pipelines.store.tars import TarDataset
from tdformer import ModelError
from tdformer.digest import DIGEST, PROGRAMS, described

pytestmark = pytest.mark.slow  # the exports that all of them take are most of their time
ROOT = Path(__file__).parents[3]
RECIPE = """\
name: run
model: {name: tiny, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, size: 16, crop_ratio: 0.8}
train: {global_batch: 120, threads: 1}
"""
FILES = [f"m{suffix}" for suffix in WRITERS]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with tiny():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """A run whose averaged weights fire, that was measured at its checkpoint's step, and its exports."""
    place = tmp_path_factory.mktemp("card")
    run = digits_run(place, RECIPE, average=True)
    for row in ({"step": 3, "eval_accuracy": 0.25}, {"step": 7, "loss": 1.0}, {"step": 7, "eval_accuracy": 0.75}):
        run.metrics.append(row)
    for name in FILES:
        export(run.path, place / name)
    return place


def test_classes_are_told_in_words_where_the_data_say_them(tmp_path: Path) -> None:
    """As ImageNet's archives do, whose classes are numbers of WordNet."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    shards = few_digits(tmp_path / "shards")
    for split in ("train", "test"):
        index_files.edit(shards / split, class_titles=words)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    config = load(tmp_path / "recipe.yaml", [f"data.root={shards}"])
    data = opened(config, "test")
    save(tmp_path / "run", config, data, classes=data.class_names, input=input_facts(data))
    export(tmp_path / "run", tmp_path / "m.safetensors")
    assert '\n    3: "3" (three)\n' in (tmp_path / "m.safetensors.md").read_text()
    export(tmp_path / "m.safetensors", tmp_path / "m.pt")
    assert '\n    9: "9" (nine)\n' in (tmp_path / "m.pt.md").read_text()
    wrong = {**input_facts(data), "titles": ["three"]}
    save(tmp_path / "wrong", config, data, classes=data.class_names, input=wrong)
    with pytest.raises(RunError, match="what it says of its data cannot be used \\(titles"):
        export(tmp_path / "wrong", tmp_path / "wrong.pt")


@pytest.mark.parametrize("name", FILES)
def test_a_card_says_what_is_known(place: Path, name: str) -> None:
    data, about = TarDataset(place / "shards" / "test"), described(place / name)
    assert about is not None
    model = tdformer.create_model(**about["model"])
    assert about["classes"] == data.class_names and about["dataset"] == "digits"
    assert about["input"] == {**input_facts(data), "size": 16, "crop_ratio": 0.8}
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert (about["step"], about["averaged"], about["accuracy"], about["run"]) == (7, True, 0.75, "run")
    assert about["config_sha256"] == hashlib.sha256((place / "run" / "config.yaml").read_bytes()).hexdigest()
    [start] = RunFolder(place / "run").starts.read()
    assert about["code"] == ([f"{start['commit']}{'+' * bool(start['dirty'])}"] if start["commit"] else [])
    assert "Apache-2.0" in about["licence"]
    page = (place / f"{name}.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page, re.M))
    assert page.startswith(f"# {name}\n")
    assert rows["Model"] == f"`tiny`, {about['parameters']:,} parameters"
    assert rows["Time"] == "2 steps in 2 segments, feedback to block 0"
    assert rows["Input"] == "pictures, 1 x 16 x 16" and "16 / 0.8 pixels" in rows["Seen as"]
    assert f"{data.mean[0]:.4g}; {data.std[0]:.4g}" in rows["Mean, std"]
    assert rows["Test accuracy"].startswith("75.00%") and about["config_sha256"] in rows["Configuration"]
    assert rows["Checkpoint"] == "step 7 of run `run`; the average of the weights"
    assert re.findall(r'^    (\d): "(\d)"$', page, re.M) == [(str(i), str(i)) for i in range(10)]
    assert ("1 images at once" in page) == (Path(name).suffix in PROGRAMS) and about["licence"] in page


def test_a_safetensors_file_alone_has_the_card(place: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((place / "m.safetensors").read_bytes())
    model, about = tdformer.from_pretrained(alone).eval(), described(place / "m.safetensors")
    assert model.card is not None and about is not None
    assert model.card == {key: about[key] for key in model.card} and {"classes", "input", "code"} < model.card.keys()
    data, seen = TarDataset(place / "shards" / "test"), model.card["input"]
    pixels = torch.stack([torch.tensor(data.image(i)) for i in range(4)])
    device = torch.device("cpu")
    assert torch.equal(
        to_device(pixels, seen["mean"], seen["std"], device), to_device(pixels, data.mean, data.std, device)
    )
    again = tmp_path / "again.safetensors"
    tdformer.save_pretrained(model, again)
    assert again.read_bytes() == alone.read_bytes()
    changed = alone.read_bytes().replace(b"Apache-2.0", b"Apache-3.0")
    alone.write_bytes(changed)
    with pytest.raises(ModelError, match="is damaged"):
        tdformer.from_pretrained(alone)
    del model.card
    tdformer.save_pretrained(model, again)
    assert tdformer.from_pretrained(again).card is None


AGAIN = """
import sys
from pathlib import Path
from firing import tiny
import cluster, tdformer
from cluster.results.export import export
assert {Path(package.__file__).parents[1] for package in (cluster, tdformer)} == {Path.cwd() / "copy"}
with tiny():
    for name in sys.argv[2:]:
        export(Path(sys.argv[1]), Path(name))
"""


def test_the_same_checkpoint_gives_the_same_bytes(place: Path, tmp_path: Path) -> None:
    """In another process, whose sets are in another order, in another folder, with another time, of packages that lie
    elsewhere."""
    for package in ("cluster", "pipelines", "tdformer"):
        shutil.copytree(ROOT / package, tmp_path / "copy" / package, symlinks=True)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'copy'}:{ROOT / 'tests'}", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", AGAIN, place / "run", *FILES], cwd=tmp_path, env=environment, check=True)
    for name in ("here.pt2", "here.onnx"):
        export(place / "run", tmp_path / name)
        assert (tmp_path / name).read_bytes() == (place / f"m{Path(name).suffix}").read_bytes()
    for name in FILES:
        for file in (name, f"{name}.json", f"{name}.md"):
            assert (tmp_path / file).read_bytes() == (place / file).read_bytes(), file
    with safe_open(place / "m.safetensors", "pt") as file:
        keys = sorted(file.metadata())
    assert keys == ["card", DIGEST, "tdformer"]
    head = (place / "m.safetensors").read_bytes()[:200_000]
    places = [head.index(f'"{key}":'.encode()) for key in keys]
    assert places == sorted(places)


def test_what_is_not_ours_is_not_replaced(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.pt"
    page = tmp_path / "m.pt.md"
    page.write_text("# My notes\n")
    with pytest.raises(RunError, match=r"m.pt.md is there, and not as an export left it"):
        export(place / "run", out)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt.md"] and page.read_text() == "# My notes\n"
    page.unlink()
    export(place / "run", out)
    export(place / "run", out)
    page.write_text(page.read_text() + "and mine\n")
    with pytest.raises(RunError, match=r"m.pt.md is there, and not as an export left it"):
        export(place / "run", out)
    page.unlink()
    export(place / "run", out)
    assert page.exists()


def test_a_checkpoint_of_an_earlier_version_has_a_card_with_gaps(place: Path, tmp_path: Path) -> None:
    config = load(place / "recipe.yaml", [f"data.root={place / 'shards'}"])
    run = save(tmp_path / "run", config, opened(config, "test"))
    (run / "starts.jsonl").unlink()
    export(run, tmp_path / "m.safetensors")
    about = described(tmp_path / "m.safetensors")
    assert about is not None
    assert (about["classes"], about["input"], about["accuracy"], about["code"]) == (None, None, None, [])
    text = (tmp_path / "m.safetensors.md").read_text()
    for row in ("Mean, std | not kept", "Test accuracy | not measured at this step", "Code | not in git"):
        assert f"| {row} |" in text


@pytest.mark.parametrize("text", ["[1]", "7", "{", "[" * 100_000])
def test_a_card_that_cannot_be(place: Path, tmp_path: Path, text: str) -> None:
    """Signed as ours are."""
    from safetensors.torch import save_file

    from tdformer.digest import of_tensors

    model = tdformer.from_pretrained(place / "m.safetensors")
    tensors, options = model.state_dict(), json.dumps(model.config)
    said: dict[str, Any] = {"tdformer": options, "card": text, DIGEST: of_tensors(options + text, tensors)}
    save_file(tensors, tmp_path / "m.safetensors", said)
    with pytest.raises(ModelError, match="its model card is no JSON object"):
        tdformer.from_pretrained(tmp_path / "m.safetensors")
