"""The cells of a grid: each point once, the same whatever the order in which axes and values are written."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.build.shards import write_shards
from cluster.config import load
from cluster.errors import RunError
from cluster.study.grid import Cell, cells
from cluster.study.schema import Constraints, Options, Point, Study

VALUES = {
    "model.time_steps": ["2", "4", "8"],
    "train.lr": ["0.001", "1.0e-4"],
    "engine.zero_stage": ["0", "1"],
    "processes": ["1", "2"],
    "share": ["1.0", "0.5"],
    "recompute.policy": ["none", "unit"],
}


@cache
def base() -> object:
    return load("digits")


def study(axes: dict[str, list[str]], base=None, **options) -> Study:  # type: ignore[no-untyped-def]
    points: dict[str, list[Point]] = {key: [{key: value} for value in values] for key, values in axes.items()}
    return Study(Options(name="s", **options), base or load("digits"), points, None)


grids = st.dictionaries(st.sampled_from([*VALUES]), st.integers(1, 2), min_size=1, max_size=3).map(
    lambda sizes: {key: VALUES[key][:size] for key, size in sizes.items()}
)


@settings(max_examples=12)
@given(grids, st.randoms(use_true_random=False))
def test_each_point_is_one_cell_in_any_order(axes: dict[str, list[str]], rng: random.Random) -> None:
    found = cells(study(axes), "r")
    count = 1
    for values in axes.values():
        count *= len(values)
    assert len(found) == len({cell.digest for cell in found}) == len({cell.name for cell in found}) == count
    keys = rng.sample([*axes], len(axes))
    other = cells(study({key: rng.sample(axes[key], len(axes[key])) for key in keys}), "r")
    assert {cell.digest for cell in other} == {cell.digest for cell in found}
    assert {cell.digest for cell in cells(study(axes), "r2")}.isdisjoint(cell.digest for cell in found)
    for cell in found:
        assert cell.shape.world == cell.axes.get("processes", 1)
        assert cell.config.name == cell.name and cell.config.data.share == cell.axes.get("share", 1.0)


def digests(found: list[Cell]) -> set[str]:
    return {cell.digest for cell in found}


def test_what_decides_no_numbers_is_another_cell_only_where_it_is_an_axis() -> None:
    one = cells(study({"train.lr": ["0.001"]}), "r")
    elsewhere = load("digits", ["data.root=/elsewhere", "recompute.policy=unit", "site.partition=x"])
    assert digests(cells(study({"train.lr": ["0.001"]}, elsewhere), "r")) == digests(one)
    policies = study({"train.lr": ["0.001"], "recompute.policy": ["none", "unit"]})
    assert len(digests(cells(policies, "r")) | digests(one)) == 3
    assert digests(cells(study({"train.lr": ["0.001"], "processes": ["2"]}), "r")).isdisjoint(digests(one))


def test_repeats_are_cells_of_the_same_settings() -> None:
    found = cells(study({}, repeats=3), "r")
    assert [cell.axes["repeat"] for cell in found] == [0, 1, 2] and len(digests(found)) == 3
    assert len({repr(replace(cell.config, name="")) for cell in found}) == 1


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_shards("digits", folder)
    return folder


def test_constraints_decide_batch_and_epochs(shards: Path) -> None:
    small = load("digits", [f"data.root={shards}", "train.global_batch=32", "train.norm_batch=32"])
    weak = Constraints(global_batch="per_process")
    found = cells(study({"processes": ["1", "2"]}, small, constraints=weak), "r")
    assert [cell.config.train.global_batch for cell in found] == [32, 64]
    share = {"share": ["1.0", "0.5", "0.1"]}
    images = cells(study(share, small, constraints=Constraints(images=14080)), "r")
    assert [cell.config.train.epochs for cell in images] == [10, 20, 110]  # of 44, 22 and 4 steps
    steps = {"model.time_steps": ["4", "8"]}
    flop = cells(study(steps, small, constraints=Constraints(flop=1e12)), "r")
    one, two = (cell.config.train.epochs for cell in flop)
    assert one == pytest.approx(2 * two, abs=1) and two > 10
    with pytest.raises(RunError, match=r"constraints.images=2000 is 1.42 epochs of 1408 images here"):
        cells(study({"seed": ["0"]}, small, constraints=Constraints(images=2000)), "r")
