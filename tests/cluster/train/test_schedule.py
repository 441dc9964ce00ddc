"""Schedules by name: pure functions of the step, behind one warm-up."""

from __future__ import annotations

import itertools
import math

import pytest

from cluster.config import TrainConfig, load
from cluster.config.overrides import for_training
from cluster.errors import RunError
from cluster.train.schedule import SCHEDULES, learning_rate


def rates(schedule: str) -> list[float]:
    train = TrainConfig(epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=2, schedule=schedule)
    return [learning_rate(train, step, 50) for step in range(500)]


def test_each_starts_after_the_warm_up_and_ends_where_it_says() -> None:
    for schedule in SCHEDULES:
        assert rates(schedule)[:101] == pytest.approx([*((step + 1) / 100 for step in range(100)), 1.0])
    assert rates("linear")[300] == pytest.approx(0.55) and rates("linear")[-1] == pytest.approx(0.1 + 0.9 / 400)
    assert set(rates("constant")[100:]) == {1.0}
    assert rates("cosine")[200] == pytest.approx(0.1 + 0.45 * (1 + 2**-0.5))


def test_a_schedule_is_known_by_its_name() -> None:
    with pytest.raises(
        RunError, match="train.schedule is cosin; choose cosine, linear or constant; did you mean cosine?"
    ):
        load(None, ["train.schedule=cosin"])
    words = ["train.schedule=constant", "train.min_lr=1e-4"]
    with pytest.raises(RunError, match="train.min_lr changes nothing here: train.schedule=constant does not end there"):
        for_training(load(None, words), words)


def test_learning_rate_warms_up_and_ends_at_the_minimum() -> None:
    train = TrainConfig(epochs=10, lr=1.0, min_lr=0.1, warmup_epochs=2)
    rates = [learning_rate(train, step, 50) for step in range(500)]
    assert rates[0] == pytest.approx(0.01) and rates[99] == pytest.approx(1.0) == max(rates)
    assert all(a > b for a, b in itertools.pairwise(rates[100:]))
    assert rates[300] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
