"""Figure 1: matrices of networks whose information across time steps is known, its numbers, and what is refused."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from firing import digits_run, save

from cluster.build.data import opened
from cluster.config import load
from cluster.errors import RunError
from cluster.paper import FIGURES, saving, style
from cluster.paper.figure import made
from cluster.paper.opening import Run
from pipelines.draws import NULL
from tdformer.errors import ModelError
from tdformer.measure import mutual_information, spikes_of

RECIPE = """\
name: run
model: {name: quickstart, width: 32, heads: 2, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 50, threads: 1}
"""
OFF = ["model.segments=1", "model.feedback=none"]
KINDS = {
    "fed1": ["seed=1"],
    "off": OFF,
    "off1": ["seed=1", *OFF],
    "forgetful": ["model.tau=1", *OFF],
    "one": ["model.time_steps=1", *OFF],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with feedback and without of two seeds; one whose neurons keep nothing; one of one step."""
    place = tmp_path_factory.mktemp("information")
    digits_run(place, RECIPE)
    for name, changes in KINDS.items():
        config = load(place / "recipe.yaml", [f"data.root={place / 'shards'}", f"name={name}", *changes])
        data = opened(config, "test")
        save(place / name, config, data, classes=data.class_names)
    return place


def drawn(folder: Path, names: Sequence[str], **options: str) -> tuple[str, list[dict[str, str]], dict[str, bytes]]:
    """The caption, the rows of the table, and the files."""
    figure = made("1", {"images": "40", "shuffles": "20", **options})
    runs = [Run.open(str(folder / name)) for name in names]
    figure.check(runs)
    with style.applied():
        found = figure.draw(runs)
        files = saving.contents(found)
    return found.caption, list(csv.DictReader(io.StringIO(files[".csv"].decode()))), files


def number(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    assert match, text
    return float(match[1])


def test_neurons_that_keep_nothing_repeat_themselves(folder: Path) -> None:
    """With tau = 1 a step is a function of the picture: it tells all of another one."""
    caption, rows, _ = drawn(folder, ["forgetful"])
    bits = {float(row["bits"]) for row in rows}
    assert len(rows) == 4 and max(bits) - min(bits) < 1e-12 and max(bits) > 0.1
    assert "That is 100.0% of the entropy" in caption
    _, usual, _ = drawn(folder, ["off"])
    assert float(usual[1]["bits"]) < 0.9 * float(usual[0]["bits"])


def test_its_numbers_are_those_of_its_runs(folder: Path) -> None:
    caption, rows, files = drawn(folder, ["run", "fed1", "off", "off1"])
    assert files[".pdf"].startswith(b"%PDF") and files[".png"].startswith(b"\x89PNG")
    run = Run.open(str(folder / "run"))
    spikes = torch.cat([spikes_of(run.model, images) for images, _ in run.batches(40)], 1)
    expected = mutual_information(spikes, NULL.rng(0), 20)
    own = [row for row in rows if row["run"] == str(folder / "run")]
    for key, values in (
        ("bits", expected.bits),
        ("plug_in_bits", expected.plain),
        ("shuffled_bits", expected.null.mean(0)),
    ):
        assert [float(row[key]) for row in own] == pytest.approx(values.flatten().tolist(), abs=1e-12), key
    means = {}
    for kind in ("feedback (concat)", "no feedback"):
        pairs = {
            row["seed"]: float(row["bits"]) for row in rows if row["kind"] == kind and row["step"] != row["other_step"]
        }
        assert list(pairs) == ["0", "1"]
        said = next(line for line in caption.split("\n\n") if line.lower().startswith(f"{kind}, 2 runs"))
        assert number(r"steps (\d\.\d+) \(95% over seeds", said) == pytest.approx(
            np.mean(list(pairs.values())), abs=1e-4
        )
        assert number(r"shuffled it is (-?\d\.\d+) \(95% of 40 shuffles", said) < 0.02
        means[kind] = np.mean(list(pairs.values()))
    less = number(r"less no feedback, by seed: ([+-]\d\.\d+) \(95%", caption)
    assert less == pytest.approx(means["feedback (concat)"] - means["no feedback"], abs=1e-4) and less != 0


def test_of_another_unit_and_of_groups(folder: Path) -> None:
    unit = "backbone.stages.2.0.mlp.fc1.neuron"
    caption, rows, _ = drawn(folder, ["off"], unit=unit, group="2")
    assert f"2 channels side by side of `{unit}`" in caption and "mean of 64 features" in caption
    assert float(rows[0]["bits"]) > 0 and [row["seed"] for row in rows] == ["0"] * 4
    with pytest.raises(ModelError, match="'nowhere' is no unit of quickstart; one is "):
        drawn(folder, ["off"], unit="nowhere")
    with pytest.raises(ModelError, match="40 images and 32 channels are too few for groups of 3; give at least 49"):
        drawn(folder, ["off"], group="3")


def test_one_time_step_is_refused(folder: Path) -> None:
    with pytest.raises(RunError, match="one has one time step; give runs of two and more"):
        drawn(folder, ["one"])
    assert "1" in FIGURES
