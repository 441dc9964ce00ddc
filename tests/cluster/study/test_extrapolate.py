"""Extrapolation: what was put into made-up cells comes back, ranks are left out and predicted, and each part of it is
what its formula says."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from cluster.errors import RunError
from cluster.plan.interval import daly, lost
from cluster.plan.network import COUNTED, AlphaBeta, Rule, exposed
from cluster.study import extrapolate
from cluster.study.extrapolate import slowest
from cluster.study.fits import check, fit
from cluster.study.fitted import Fit
from cluster.study.table import Row

PARAMETERS = 20_000_000
RULE = Rule.even(PARAMETERS)
SPEC = {"name": "e", "kind": "extrapolate"}
H100 = SPEC | {"chip": "h100", "model": {"name": "hst_10_768"}, "launch": 0.128, "gpus": [1, 8, 64]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extrapolate, "DRAWS", 40)


def row(world: int, seconds: float, images: int = 8, **more: Any) -> Row:
    found = {"cell": f"w{world}", "world": world, "steps": 10, "images": 10 * images * world, "seconds_step": seconds}
    return found | {"parameters": PARAMETERS, "seconds_step_low": seconds, "seconds_step_high": seconds} | more


def processes(noise: float = 0.0, worlds: tuple[int, ...] = (1, 1, 2, 2, 4, 4), cores: int = 4) -> list[Row]:
    """0.1 s an image on each of the cores, messages of 20 ms, 0.1 GB/s."""
    random = np.random.default_rng(0)

    def seconds(p: int) -> float:
        compute = 0.8 * max(1, p / cores)
        return compute + exposed(RULE, AlphaBeta(2e-2, 1e-8), p, 1, compute, COUNTED[0])

    return [row(p, seconds(p) * (1 + noise * random.standard_normal())) for p in worlds]


def at(found: Fit, world: int) -> Any:
    return next(line for line in found.curve if line["x"] == world)


@pytest.mark.parametrize("cores", [4, 2])
def test_processes_of_a_machine(cores: int) -> None:
    measured = {row["world"]: row["seconds_step"] for row in processes(cores=cores)}
    found = fit(processes(cores=cores), SPEC | {"cores": cores, "gpus": [4, 8, 512]})
    times = [found.parameters[name].value for name in ("seconds an image", "seconds a message", "seconds a byte")]
    assert times == pytest.approx([0.1, 2e-2, 1e-8], rel=2e-2)
    assert found.residual is not None and found.residual < 1e-3
    assert [point.measured for point in found.points[::2]] == pytest.approx([p * 8 / t for p, t in measured.items()])
    assert at(found, 4)["y"] == pytest.approx(4 * 8 / processes(cores=cores)[-1]["seconds_step"], rel=2e-2)
    assert at(found, 512)["efficiency"] < at(found, 8)["efficiency"] < 1
    json.dumps(found.as_json(), allow_nan=False)


def test_ranks_that_are_left_out_are_predicted() -> None:
    """And the interval is as wide as they are off, or as cells scatter."""
    ask, worlds = SPEC | {"cores": 4, "gpus": [8, 16]}, (1, 2, 4, 8)
    still, noisy, other = (
        fit(rows, ask)
        for rows in (
            processes(worlds=worlds, cores=4),
            processes(0.05, worlds=worlds, cores=4),
            [row(p, t) for p, t in zip(worlds, (0.8, 1.3, 1.5, 6.0), strict=True)],
        )
    )
    assert still.note == "ranks left out and predicted from the others: 0.0% off (rms of 3), at most 0.0%"
    widths = [at(found, 16)["high"] / at(found, 16)["low"] - 1 for found in (still, noisy, other)]
    assert 0 < widths[0] < widths[1] < widths[2]
    assert at(noisy, 16)["low"] < at(still, 16)["y"] < at(noisy, 16)["high"]


def test_one_gpu_that_was_measured() -> None:
    found = fit([row(1, 0.28416, 64)], H100 | {"images": 200 * 1_281_167, "stall": 2.0})
    one, node, many = (at(found, p) for p in (1, 8, 64))
    assert one["y"] == pytest.approx(64 / 0.28416, rel=1e-3) and one["efficiency"] == pytest.approx(1)
    for line in (node, many):
        assert line["low"] < line["y"] < line["high"]
        between = 3600 / (2e-5 * line["x"])
        assert line["goodput"] == pytest.approx(1 - lost(daly(2.0, between), 2.0, between, 300))
        assert line["hours"] == pytest.approx(200 * 1_281_167 / line["y"] / line["goodput"] / 3600)
        assert line["gpu_hours"] == pytest.approx(line["x"] * line["hours"])
    assert 1 > node["efficiency"] > many["efficiency"] > 0.9
    assert "nothing here is checked" in str(found.note)
    assumed = {one.name: one for one in found.assumptions}
    assert "datasheet" in assumed["link"].source and assumed["net"].source.endswith("assumed")
    assert all(one.low <= one.value <= one.high for one in assumed.values())


def test_a_small_share_is_bounded_by_its_launch() -> None:
    """On 64 GPUs 9 images each would compute for 40 ms, and the host launches for 128."""
    found = fit([row(1, 0.28416, 64)], H100 | {"global_batch": 576, "norm_batch": 72})
    alone = fit([row(1, 0.28416, 64)], H100 | {"global_batch": 576})
    assert at(found, 64)["y"] < 576 / 0.128 and at(found, 64)["efficiency"] < 0.33
    assert at(found, 64)["y"] < at(alone, 64)["y"]  # BatchNorm over 8 ranks
    assert at(found, 8)["y"] == pytest.approx(at(alone, 8)["y"])


def test_gpus_that_were_measured_together_tell_of_their_network() -> None:
    ask = H100 | {"gpus": [2, 8, 16]}
    model = fit([row(1, 0.28416, 64)], ask)
    cells = [row(1, 0.28416, 64), *(row(p, 64 * p / at(model, p)["y"], 64) for p in (2, 8))]
    found = fit(cells, ask)
    assert found.parameters["network, as a factor"].value == pytest.approx(1, abs=0.05)
    slow = fit([cells[0], *(row(c["world"], c["seconds_step"] + 0.05, 64) for c in cells[1:])], ask)
    assert slow.parameters["network, as a factor"].value > 2 and at(slow, 16)["y"] < at(found, 16)["y"]


def test_the_slowest_of_many() -> None:
    assert slowest(1) == pytest.approx((0, 1), abs=1e-6)
    assert slowest(2) == pytest.approx((1 / math.sqrt(math.pi), math.sqrt(1 - 1 / math.pi)), abs=1e-6)
    assert slowest(512)[0] == pytest.approx(
        np.random.default_rng(0).standard_normal((4000, 512)).max(axis=1).mean(), rel=0.01
    )
    cells = [row(1, 0.28416, 64, seconds_step_low=0.27, seconds_step_high=0.30)]
    known = {one.name: one for one in fit(cells, H100).assumptions}["spread"]
    assert known.high == pytest.approx(0.03 / 1.349 / 0.28416, rel=1e-3) and known.low == 0


@pytest.mark.parametrize(
    ("rows", "more", "said"),
    [
        ([], {}, "no cell has these values"),
        ([row(1, 0.3)], {}, "no cell has two ranks and no chip is named: nothing is known of the network"),
        ([row(1, 0.3, parameters=None), row(2, 0.4, parameters=None)], {}, "these cells have no parameters: "),
        ([row(1, 0.3), row(2, 0.4, parameters=5)], {}, "these cells are of 2 models: choose some by `where`"),
        ([row(1, 0.0)], {"chip": "h100"}, "cell w1 has no ranks, images, steps or seconds"),
        ([row(1, 0.1)], {"chip": "h100", "launch": 0.2}, "launch is 0.2 s, and a step was measured that took 0.1"),
        ([row(1, 0.1)], {"chip": "h100", "model": {"name": "hst"}}, "model: "),
        ([row(1, 0.1)], {"chip": "h100", "failures": 1.0}, "failures leave "),
    ],
)
def test_where_nothing_can_be_told(rows: list[Row], more: dict[str, Any], said: str) -> None:
    found = fit(rows, SPEC | more)
    assert str(found.note).startswith(said) and not found.parameters


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"chip": "h1000"}, "no GPU is called 'h1000'; did you mean h100?"),
        ({"gpus": []}, "report.fits[0] (e): gpus is empty; it takes whole numbers above 0"),
        ({"gpus": [0]}, "report.fits[0] (e): gpus is [0]; it takes whole numbers above 0"),
        ({"x": "nodes"}, "report.fits[0] (e): x is always world; leave it out"),
        ({"restart": 0}, "report.fits[0] (e): restart is 0; it takes a number above 0"),
        ({"stall": -1}, "report.fits[0] (e): stall is -1; it takes a number from 0"),
        ({"global_batch": 100}, "report.fits[0] (e): global_batch is 100, which 8 GPUs do not divide"),
    ],
)
def test_what_cannot_be_asked_is_one_line(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        check([SPEC | more])
    assert str(caught.value).startswith(said)
