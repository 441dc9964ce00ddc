"""What the cells of a study have cost, and what those that are left will, as their finished siblings did."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cluster.run.states import RunState
from cluster.study.cost import Costs
from cluster.study.folder import CellFolder
from cluster.study.usage import Use, device_seconds


def cell(study: Path, name: str, axes: dict[str, Any], seconds: float = 0.0, done: int = 0) -> CellFolder:
    """Of 100 steps and 1,000 images on two processes, which took `seconds` by the clock; its plan says 3 s a step."""
    folder = CellFolder(study / "cells" / name)
    (folder.path / "usage").mkdir(parents=True)
    facts = {"digest": name, "axes": axes, "nodes": 1, "processes": 2, "gpus": 0, "steps": 100, "images": 1000}
    folder.run.cell_file.write_text(json.dumps(facts | {"plan": {"predicted.seconds_step": 3.0}}))
    if seconds:
        use = Use(world=2, host="here", pid=1, began=0.0, last=seconds, beat=2.0, ended=True)
        (folder.path / "usage" / "1.json").write_text(json.dumps(asdict(use)))
    if done:
        folder.run.tell(RunState.SAVED, step=done)
    return folder


def test_an_image_costs_what_it_did_in_the_nearest_siblings(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, "a", {"width": 1, "seed": 0}, 100.0, 100),
        cell(tmp_path, "b", {"width": 1, "seed": 1}, 120.0, 100),
        cell(tmp_path, "c", {"width": 9, "seed": 0}, 900.0, 100),
        cell(tmp_path, "d", {"width": 1, "seed": 7}, 30.0, 25),
        cell(tmp_path, "e", {"width": 9, "seed": 7}),
        cell(tmp_path, "f", {"width": 9, "seed": 8}, 5.0, 3),
    ]
    costs = Costs(cells)
    assert costs.of("a") == device_seconds(cells[0].path) == 200.0 and costs.spent() == 2 * (100 + 120 + 900 + 30 + 5)
    states = dict.fromkeys("abc", RunState.FINISHED) | {"d": RunState.RUNNING, "e": RunState.WAITING}
    left = costs.left(states | {"f": RunState.STOPPED})
    assert left == {"d": pytest.approx(0.75 * 220), "e": pytest.approx(1800)}


def test_before_one_is_finished_the_plan_says_it(tmp_path: Path) -> None:
    costs = Costs([cell(tmp_path, "a", {"width": 1}, 10.0, 50)])
    assert costs.left({"a": RunState.RUNNING}) == {"a": pytest.approx(0.5 * 100 * 3.0 * 2)}
