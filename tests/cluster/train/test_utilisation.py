"""Operations of a step against a count by hand, and what becomes of them: TFLOP/s, MFU, HFU."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import cluster.build.operations as counting
from cluster.build import planner
from cluster.build.memory import GIB, Memory
from cluster.build.operations import operations
from cluster.build.setup import Setup
from cluster.config import load
from cluster.run.monitor import Monitor
from cluster.run.speed import Lap
from cluster.train.utilisation import Utilisation

MEMORY = Memory(64.0 * GIB, "a test")
# Input and output channels, kernel and the side of the output, of all convolutions of the quick start's model on
# pictures of 8 x 8; then its two products of 4 heads of 24 channels on one token, and the head.
CONVOLUTIONS = [
    *[(1, 12, 3, 8), (12, 24, 3, 4), (24, 24, 3, 2), (12, 24, 1, 2)],
    *[(24, 24, 1, 2)] * 3,
    *[(24, 96, 1, 2), (96, 24, 1, 2)],
    *[(24, 48, 3, 2), (48, 48, 3, 1), (24, 48, 1, 1)],
    *[(48, 48, 1, 1)] * 3,
    *[(48, 192, 1, 1), (192, 48, 1, 1)],
    *[(48, 96, 3, 1), (96, 96, 3, 1), (48, 96, 1, 1)],
    *[(96, 96, 1, 1)] * 4,
    *[(96, 384, 1, 1), (384, 96, 1, 1)],
]
FORWARD = sum(2 * i * o * kernel**2 * side**2 for i, o, kernel, side in CONVOLUTIONS)
PRODUCTS, HEAD, FIRST = 2 * 2 * 4 * 24, 2 * 96 * 10, 2 * 1 * 12 * 9 * 64


def setup(data: Path, *more: str) -> Setup:
    words = ["model.name=quickstart", "model.time_steps=1", "model.segments=1", "model.feedback=none"]
    words += ["data.dataset=digits", f"data.root={data}", "train.global_batch=10", *more]
    return Setup.to_train(load(None, words), 1)


def test_operations_are_those_counted_by_hand(few_digits: Path) -> None:
    """Backward takes twice what forward does, but no gradient of the pictures."""
    made = setup(few_digits, "recompute.policy=none")
    found = operations(made, MEMORY)
    assert found["flop_image"] == found["flop_image_done"] == 3 * (FORWARD + PRODUCTS + HEAD) - FIRST
    assert found["parameters"] == sum(p.numel() for p in made.model().parameters()) and found["world"] == 1
    twice = operations(setup(few_digits, "recompute.policy=none", "model.time_steps=2", "model.segments=2"), MEMORY)
    assert twice["flop_image"] == 2 * found["flop_image"]


def test_what_is_computed_again_is_done_and_not_asked_for(few_digits: Path) -> None:
    """`unit` computes each convolution again and, in attention, both products."""
    found = operations(setup(few_digits, "recompute.policy=unit"), MEMORY)
    assert found["flop_image"] == 3 * (FORWARD + PRODUCTS + HEAD) - FIRST
    assert found["flop_image_done"] == found["flop_image"] + FORWARD + PRODUCTS
    assert (found["policy"], found["borders"]) == ("unit", 1)


def test_nothing_is_counted_that_is_known(few_digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "_priced", {})
    found = operations(setup(few_digits, "recompute.policy=none"), MEMORY)
    prices = len(planner._priced)
    assert operations(setup(few_digits, "recompute.policy=none"), MEMORY, [{}, found]) == found
    assert len(planner._priced) == prices
    other = operations(setup(few_digits, "recompute.policy=unit"), MEMORY, [found])  # that computes otherwise
    assert other["flop_image_done"] > found["flop_image_done"] and len(planner._priced) == prices + 1


@pytest.mark.parametrize("error", [RuntimeError("no"), TypeError("no"), KeyError("no")])
def test_a_model_that_cannot_be_counted_trains_all_the_same(
    few_digits: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(counting.planner, "price", fail)
    found = operations(setup(few_digits), MEMORY)
    assert found["flop_image"] is None and found["flop_image_done"] is None and found["parameters"] > 0
    assert Utilisation.of(found | {"device": "NVIDIA H100 80GB HBM3"}, load(None)).row(Lap(10, 1.0)) == {}


@pytest.mark.parametrize(
    ("settings", "peak"),
    [
        ([], 66.9e12),
        (["train.tf32=true"], 494.7e12),
        (["train.precision=bf16"], 989.4e12),
        (["train.precision=bf16", "train.tf32=true"], 989.4e12),
    ],
)
def test_shares_are_of_the_peak_of_the_precision(settings: list[str], peak: float) -> None:
    row = {"device": "NVIDIA H100 80GB HBM3", "world": 4, "flop_image": 3 * 10**11, "flop_image_done": 4 * 10**11}
    found = Utilisation.of(row, load(None, settings)).row(Lap(1000, 2.0, 0.5))
    assert found["tflops"] == pytest.approx(500 / 4 * 0.3)  # 1e12 a second, of each of four
    assert found["mfu"] == pytest.approx(found["tflops"] * 1e12 / peak, rel=1e-3)
    assert found["hfu"] == pytest.approx(4 / 3 * found["mfu"], rel=1e-3)


def test_what_all_ranks_compute_again_is_what_is_done(few_digits: Path) -> None:
    """Also where the first rank, which has more memory than another, has noted that it computes nothing again."""
    made = setup(few_digits, "recompute.policy=none")
    noted = operations(made, MEMORY) | {"device": "NVIDIA H100 80GB HBM3"}
    kinds = {policy: planner.price(made.outline, made.config, made.plan, policy, 1) for policy in ("none", "unit")}
    found = {policy: Utilisation.of(noted, made.config, chosen) for policy, chosen in kinds.items()}
    assert found["none"] == Utilisation.of(noted, made.config) and found["none"].done == noted["flop_image"]
    assert found["unit"].done == noted["flop_image"] + FORWARD + PRODUCTS
    bound = planner.Recompute("none", 1, 1.0)  # fits whatever it costs, so it was not priced
    again = operations(setup(few_digits, "recompute.policy=unit"), MEMORY)
    assert Utilisation.of(again, made.config, bound).done == noted["flop_image"]


@pytest.mark.parametrize("device", ["CPU", "NVIDIA H100 80GB HBM3, NVIDIA A100-SXM4-80GB", None])
def test_of_a_device_in_no_table_there_are_no_shares(device: str | None) -> None:
    row = {"device": device, "world": 1, "flop_image": 10**9, "flop_image_done": 10**9}
    assert Utilisation.of(row, load(None)).row(Lap(100, 1.0)) == {"tflops": 0.1}
    assert Utilisation.of({}, load(None)).row(Lap(100, 1.0)) == {}  # of an earlier version


def test_v100_has_no_bf16_and_so_no_share() -> None:
    row = {"device": "Tesla V100-SXM2-32GB", "world": 1, "flop_image": 10**9, "flop_image_done": 10**9}
    assert set(Utilisation.of(row, load(None, ["train.precision=bf16"])).row(Lap(100, 1.0))) == {"tflops"}
    assert set(Utilisation.of(row, load(None)).row(Lap(100, 1.0))) == {"tflops", "mfu", "hfu"}


def test_people_see_shares_where_there_are_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cluster.run.folder import RunFolder

    run = RunFolder(tmp_path / "run")
    run.open(load(None))
    monitor = Monitor(run, load(None), 4, line_seconds=0.0)
    for rates in ({"tflops": 123.4, "mfu": 0.1247, "hfu": 0.1663}, {"tflops": 0.00216}, {}):
        monitor.timed(Lap(128, 1.0), rates)
        monitor.step(1, 0, Lap(128, 1.0))
        assert {key: run.said().get(key) for key in rates} == rates
    lines = " ".join(capsys.readouterr().out.split())
    assert "data wait 0%, MFU 12.5 %, HFU 16.6 %, " in lines and "data wait 0%, 0.00216 TFLOP/s, " in lines
    assert math.isclose(run.said()["images_per_second"], 128)
