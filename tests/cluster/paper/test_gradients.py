"""Figs 3 and `sensitivity` drawn from runs: what is counted, what the caption says of it, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.paper import make


def drawn(name: str, sources: list[str], out: Path, *words: str) -> tuple[list[Mapping[str, str]], str]:
    [page] = make([name], sources, words, out)
    with page.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file)), page.read_text()


def test_fig_3_counts_each_neuron_once_and_the_clamp_makes_a_difference(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows, page = drawn("3", ["run"], tmp_path, "images=6")
    counts: dict[tuple[str, str], int] = {}
    means: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["of"], row["clamp"]
        if row["count"]:
            counts[key] = counts.get(key, 0) + int(row["count"])
        else:
            means[key] = float(row["mean"])
    every, some = "all neurons and steps", "those that a spike drives"
    assert counts[every, "true"] == counts[every, "false"] == 6 * 96  # images, H_n of 96 x 1 x 1, one step
    assert 0 < counts[some, "true"] == counts[some, "false"] < counts[every, "true"]
    assert means[some, "true"] != means[some, "false"]
    assert (
        f"the mean gradient is {means[some, 'true']:.3f} with the clamp and {means[some, 'false']:.3f} without" in page
    )
    with pytest.raises(RunError, match="figure 3: off has no processing module with a core"):
        drawn("3", ["run", "off"], tmp_path)


def test_sensitivity_of_runs_with_feedback_and_without(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows, page = drawn("sensitivity", ["off", "run"], tmp_path, "images=2")
    zero: dict[tuple[str, str], Any] = {(row["run"], row["unit"]): float(row["zero"]) for row in rows}
    assert {(row["from"], row["to"]) for row in rows} == {("1", "2")} and len(zero) == len(rows)
    fed = "backbone.stages.2.0.mlp.fc2.neuron"
    assert zero["run", fed] < zero["off", fed]  # what fired has no effect on itself, and comes back by feedback
    assert "no feedback, 1 run: " in page and "feedback (concat), 1 run: " in page
