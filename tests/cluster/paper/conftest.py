"""Runs of models that fire, with feedback and without, that all figures are drawn from."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from firing import digits_run, save

from cluster.build.data import opened
from cluster.config import load
from cluster.paper import make

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 50, threads: 1}
"""
PLUGIN = '''\
from dataclasses import dataclass, field
from cluster.config.schema import setting
from cluster.paper import FIGURES, Drawn, Figure

@FIGURES.register("brightness")
@dataclass(frozen=True, kw_only=True)
class Brightness(Figure):
    """The mean of each picture."""
    title = "How bright"
    images: int = setting(3, least=1)
    share: float = 0.5
    marks: list[str] = field(default_factory=list)

    def draw(self, runs):
        from matplotlib.figure import Figure
        means = [float(image.mean()) for run in runs for images, _ in run.batches(self.images) for image in images]
        figure = Figure(figsize=(3.3, 2))
        figure.subplots().plot(means, label=", ".join(self.marks) or "mean")
        rows = [{"image": i, "mean": mean} for i, mean in enumerate(means)]
        return Drawn(figure, f"{len(means)} pictures.", rows)
'''


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with feedback, one without, and one of another model."""
    place = tmp_path_factory.mktemp("figures")
    digits_run(place, RECIPE)
    (place / "brightness.py").write_text(PLUGIN)
    for name, changes in {"off": ["model.segments=1", "model.feedback=none"], "other": ["model.time_steps=4"]}.items():
        config = load(place / "recipe.yaml", [f"data.root={place / 'shards'}", f"name={name}", "seed=1", *changes])
        data = opened(config, "test")
        save(place / name, config, data, classes=data.class_names)
    return place


def _drawn(name: str, sources: list[str], out: Path, *words: str) -> tuple[list[Mapping[str, str]], str]:
    [page] = make([name], sources, words, out)
    with page.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file)), page.read_text()


@pytest.fixture
def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Mapping[str, str]], str]]:
    """The numbers and the page of a figure, drawn beside the runs."""
    monkeypatch.chdir(folder)
    return _drawn
