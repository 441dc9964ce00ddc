"""Figures 4 and 5: the maps are those of the runs' own spikes, and runs that they are not of are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from firing import digits_run, save

from cluster.build.data import opened
from cluster.config import load
from cluster.errors import RunError
from cluster.paper import making
from cluster.paper.figure import made
from cluster.paper.opening import Run
from tdformer.measure import spiking
from tdformer.measure.activation import activation_map

RECIPE = """\
name: run
model: {name: quickstart, width: 32, heads: 2, time_steps: 2, segments: 2, feedback: all, threshold: 0.7}
data: {dataset: digits, size: 32}
train: {global_batch: 50, threads: 1}
"""
WITHOUT = ("model.segments=1", "model.feedback=none")
KINDS = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` with feedback, T = 2 in 2 segments; `one` and `two` without, T = 1 and 2."""
    place = tmp_path_factory.mktemp("attention")
    digits_run(place, RECIPE)
    for name, steps in (("one", 1), ("two", 2)):
        words = [f"data.root={place / 'shards'}", f"name={name}", f"model.time_steps={steps}", *WITHOUT]
        config = load(place / "recipe.yaml", words)
        data = opened(config, "test")
        save(place / name, config, data, classes=data.class_names)
    return place


def fired(run: Run, neurons: str) -> list[torch.Tensor]:
    """The spikes of these neurons for two pictures, `[T/N, 2, C, H, W]` of each segment."""
    spikes: list[torch.Tensor] = []
    hook = spiking(run.model)[neurons].register_forward_hook(lambda _, __, out: spikes.append(out.float()))
    with torch.no_grad():
        for images, _ in run.batches(2):
            run.model(images)
    hook.remove()
    return spikes


@pytest.mark.parametrize(("name", "base"), [("4", "one"), ("5", "two")])
def test_the_maps_are_those_of_the_runs(name: str, base: str, folder: Path) -> None:
    runs = [Run.open(str(folder / source)) for source in (base, "run")]
    figure = made(name, {"images": "2", "image": "1", "severity": "2", "gamma": "0.3"})
    figure.check(runs)
    drawn = figure.draw(runs)
    assert len(drawn.rows) == (1 + KINDS) * 3
    assert {row["corruption"] for row in drawn.rows} >= {"original", "fog", "spatter"}
    for run, panels in zip(runs, (["no feedback"], ["first segment", "last segment"]), strict=True):
        product = next(key for key in reversed(spiking(run.model)) if key.endswith("attention.product"))
        maps = activation_map(torch.cat(fired(run, product)), 0.3)[:, 1]
        for panel, expected in zip(panels, maps.chunk(len(panels)), strict=True):
            [row] = [row for row in drawn.rows if (row["corruption"], row["panel"]) == ("original", panel)]
            assert np.allclose(row["map"], expected.mean(0), atol=1e-4) and expected.any()
            assert row["likeness"] == pytest.approx(1)
    assert f"{KINDS} kinds of corruption at severity 2" in drawn.caption and "`saturate` is left out" in drawn.caption
    assert ("two passes over one step" in drawn.caption) == (name == "4")
    if name == "5":  # what shows is the picture and, over it, the map
        panels = [axes.get_images() for axes in drawn.figure.axes]
        shown = [images for images in panels if images]
        assert len(shown) == (1 + KINDS) * 4 and all(len(images) in (1, 2) for images in shown)
        [row] = [row for row in drawn.rows if (row["corruption"], row["panel"]) == ("fog", "last segment")]
        place = list(dict.fromkeys(row["corruption"] for row in drawn.rows)).index("fog")
        rows = -(-(1 + KINDS) // 2)
        images = panels[place % rows * 8 + place // rows * 4 + 3]
        assert np.any(row["map"]) == (len(images) == 2)
        assert len(images) == 1 or np.allclose(images[1].get_array(), row["map"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "runs", "words", "said"),
    [
        ("4", ("two", "run"), (), "have T = 2 in 2 segments and T = 2; give such runs, or draw figure 5"),
        ("5", ("one", "run"), (), "these have 1 and 2; give such runs, or draw figure 4"),
        ("5", ("one", "two"), (), "2 without and 0 with are given"),
        ("5", ("run",), (), "0 without and 1 with are given"),
        ("5", ("two", "run"), ("image=3", "images=3"), "image=3 of images=3: the test set has 120"),
        ("5", ("two", "run"), ("severity=6",), "severity of figure 5"),
    ],
)
def test_other_runs_are_refused(
    name: str, runs: tuple[str, ...], words: tuple[str, ...], said: str, folder: Path, tmp_path: Path
) -> None:
    make: Any = making.make
    with pytest.raises(RunError, match=said):
        list(make([name], [str(folder / run) for run in runs], words, tmp_path))
    assert not list(tmp_path.iterdir())
