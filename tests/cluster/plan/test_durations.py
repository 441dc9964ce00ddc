"""Seconds of a step and of what ends it, from work that is known by hand."""

from __future__ import annotations

import pytest

from cluster.build.memory import GIB, Memory
from cluster.build.setup import Setup
from cluster.config import load, recipe
from cluster.plan import durations, rates
from cluster.plan.absent import setup_of
from cluster.plan.figures import NOT_IN_TOTAL
from cluster.plan.machine import Machine
from cluster.plan.network import AlphaBeta
from tdformer.measure import Work

SPEED = rates.Rates(1e-9, 0, 0, 1e-9, 0, 0, 1e-6, 0, "by hand")
WORK = Work(operators=10, launches=10, matrix_flops=10**6, other_bytes=3 * 10**6)


def setup(*words: str, world: int = 2) -> Setup:
    return setup_of(load(recipe("digits"), ["train.global_batch=128", *words]), world)


def machine(images: float | None = None) -> Machine:
    return Machine("by hand", Memory(GIB, "here"), gpu=True).timed(SPEED, AlphaBeta(1e-4, 1e-9), images)


def test_a_step_is_its_micro_batches_and_its_end() -> None:
    of = setup("train.micro_batch=16", "train.norm_batch=16", "data.workers=1")
    step = durations.of_step(of, machine(), [WORK])
    assert of.plan.accumulation == 4
    assert step["matrix"].value == pytest.approx(4e-3) and step["other"].value == pytest.approx(12e-3)
    assert step["host"].value == 0 and step["loader"].value is None and step["batchnorm_collectives"].value == 0
    shared = durations.of_step(setup("train.micro_batch=16", "train.norm_batch=32"), machine(), [WORK])
    assert (shared["batchnorm_collectives"].value or 0) > 0 and (step["gradients"].value or 0) > 0  # between two ranks
    alone = durations.of_step(setup("train.micro_batch=16", world=1), machine(), [WORK])
    assert alone["gradients"].value == alone["batchnorm_collectives"].value == 0
    parts = [figure.value or 0.0 for name, figure in step.items() if name not in NOT_IN_TOTAL]
    total = step["total"].value
    assert total == pytest.approx(sum(parts))
    read = durations.of_step(of, machine(images=1000.0), [WORK])["loader"].value
    assert read == pytest.approx(64 / 1000 - total)  # the rest is read while it computes
    assert durations.of_step(of, Machine("unknown", Memory(GIB, "here")), [WORK])["total"].value is None


def test_what_the_end_of_a_step_moves() -> None:
    """Of AdamW weights and both moments twice, the gradient once; clipping reads it and writes it."""
    of = setup("train.clip_grad=0", "train.ema_decay=0")
    count = sum(p.numel() for p in of.outline.parameters())
    assert durations.state_moved(of.outline, of.config, of.plan) == 4 * 7 * count
    more = setup("train.clip_grad=1", "train.ema_decay=0.9")
    assert durations.state_moved(more.outline, more.config, more.plan) == 4 * (9 + 3) * count
    shared = setup("train.clip_grad=0", "train.ema_decay=0", "engine.zero_stage=1")
    assert durations.state_moved(shared.outline, shared.config, shared.plan) == 4 * 7 * (count // 2)
