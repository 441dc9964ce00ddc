"""The time of collectives: the limits that any model of it has, and the tables of benchmarks/results/collectives.md,
which were made by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tdformer
from cluster.build import planner
from cluster.config import BatchPlan
from cluster.plan.network import COUNTED, AlphaBeta, Counted, Network, Rule, exposed, waits

TABLES = Path(__file__).parents[3] / "benchmarks" / "results" / "collectives.md"


@pytest.fixture(scope="module")
def rule() -> Rule:
    with torch.device("meta"):
        return Rule.of(tdformer.create_model("hst_10_768", time_steps=4, segments=2, feedback="all"), 2)


def test_a_ring_sends_what_a_ring_sends() -> None:
    ring = AlphaBeta(1e-5, 1e-9)
    assert ring.seconds(1e9, 4, True) == pytest.approx(2 * 3 / 4 + 6e-5)
    assert ring.seconds(1e9, 4, False) == pytest.approx(3 + 3e-5)
    assert ring.seconds(1e9, 1, True) == ring.seconds(1e9, 1, False) == Network().seconds(1e9, 1, True) == 0


def test_the_tables_follow_from_it(rule: Rule) -> None:
    text = TABLES.read_text()
    for images in (64, 8):
        compute = 4.4e-3 * images
        for stage in (0, 1):
            for name, most in (("a GPU", 1), ("a node", 8), ("all GPUs", 128)):
                lost = [exposed(rule, Network(), n, min(n, most), compute, COUNTED[stage]) for n in (8, 64, 128)]
                now = " / ".join(f"{compute / (compute + seconds):.1%}" for seconds in lost)
                start = f"| {images} | 2 | {stage} | {name} | "
                (row,) = (line for line in text.splitlines() if line.startswith(start))
                assert row.endswith(f" | {now} |")


def test_what_a_network_gives_the_others(rule: Rule) -> None:
    with torch.device("meta"):
        parameters = sum(
            p.numel() for p in tdformer.create_model("hst_10_768", segments=2, feedback="all").parameters()
        )
    assert rule.parameters == 4 * parameters and len(rule.batchnorm) == 2 * 67
    even = Rule.even(parameters, 2)
    assert even.parameters == rule.parameters and max(even.gradients) <= 4 * planner.BUCKET
    assert abs(len(even.gradients) - len(rule.gradients)) <= 1


def test_what_computing_hides(rule: Rule) -> None:
    """All but the last bucket; on one rank nothing is sent."""
    ring, none = AlphaBeta(0.0, 1e-9), Counted(0, 0, 0)
    shown = [exposed(rule, ring, 2, 1, compute, none) for compute in (0.0, 0.1, 100.0)]
    sums = [ring.seconds(size, 2, True) for size in rule.gradients]
    assert shown[0] == pytest.approx(sum(sums) + ring.seconds(2 * sum(rule.batchnorm), 2, True))
    assert shown[0] - shown[1] == pytest.approx(0.1 * 2 / 3 / 2)
    assert shown[2] == pytest.approx(sums[-1] + ring.seconds(2 * sum(rule.batchnorm), 2, True))
    assert exposed(rule, AlphaBeta(1.0, 1.0, 0.25), 1, 1, 1.0, Counted(0, 0, 2)) == 0.5


def test_a_step_waits_for_each_micro_batch_and_once_for_gradients(rule: Rule) -> None:
    """Here of three micro-batches, whose norm batches are on two of four ranks."""
    ring, one = AlphaBeta(1e-4, 1e-9), Counted(0, 0, 0)
    norm, gradients = waits(rule, ring, BatchPlan(96, 4, 8, 3, 16, 2), 0.5, one)
    assert gradients == exposed(rule, ring, 4, 1, 0.5, one) > 0
    assert norm == pytest.approx(3 * (exposed(rule, ring, 4, 2, 0.5, one) - gradients)) and norm > 0
