"""How many operations a step takes for an image, and when they are not counted anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cluster.build import planner
from cluster.build.memory import GIB, Memory
from cluster.build.operations import operations
from cluster.build.setup import Setup
from cluster.config import load
from cluster.plan.absent import setup_of
from tdformer.measure import measure_step

MEMORY = Memory(4 * GIB, "given")


def setup(tmp_path: Path, *words: str) -> Setup:
    return setup_of(load("digits", [f"data.root={tmp_path}", "train.micro_batch=4", *words]), 1)


def test_they_are_those_of_a_step_with_what_is_computed_again(tmp_path: Path) -> None:
    of = setup(tmp_path, "recompute.policy=unit")
    found = operations(of, MEMORY)
    assert (found["world"], found["micro_batch"], found["policy"], found["borders"]) == (1, 4, "unit", 1)
    assert found["parameters"] == sum(p.numel() for p in of.outline.parameters())
    with torch.device("meta"):
        model = of.outline
        images = torch.zeros(4, 1, 8, 8)
    for policy, key in (("none", "flop_image"), ("unit", "flop_image_done")):
        model.set_recompute(policy)
        assert found[key] == round(measure_step(model, images)[0].flops / 4) > 0
    assert found["flop_image_done"] > found["flop_image"]


def test_a_start_that_computed_alike_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = setup(tmp_path, "recompute.policy=none")
    row = operations(of, MEMORY)
    monkeypatch.setattr(planner, "price", None)  # whoever counts fails, and then knows nothing
    known = row | {"flop_image": 7, "flop_image_done": 8}
    again = operations(of, MEMORY, [row | {"policy": "unit"}, known | {"flop_image": None}, known])
    assert (again["flop_image"], again["flop_image_done"]) == (7, 8)
    other = operations(of, MEMORY, [known | {"micro_batch": 5}])
    assert other["flop_image"] is other["flop_image_done"] is None and other["parameters"] == row["parameters"]
