"""Pairs over seeds: against the numbers that the formulae give, and where nothing can be said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.study.fits import fit
from cluster.study.paired import holm
from cluster.study.table import Row

SPEC = {"name": "feedback", "kind": "paired", "y": "accuracy", "x": "axis.model.feedback"}


def rows(**levels: list[float]) -> list[Row]:
    """accuracies by value of the column, in the order of the seeds."""
    return [
        {"cell": f"{level}-{seed}", "axis.model.feedback": level, "axis.seed": seed, "accuracy": accuracy}
        for level, its in levels.items()
        for seed, accuracy in enumerate(its)
    ]


def test_the_figures_of_pairs() -> None:
    random = np.random.default_rng(0)
    none = 0.9 + 0.01 * random.standard_normal(8)
    difference = 0.004 + 0.003 * random.standard_normal(8)
    found = fit(rows(none=list(none), all=list(none + difference)), SPEC)
    of = {name.removesuffix(", all - none"): one for name, one in found.parameters.items()}
    size = difference.mean() / difference.std(ddof=1)
    assert of["difference"].value == pytest.approx(difference.mean())
    assert (of["difference"].low or 1) < difference.mean() < (of["difference"].high or 0)
    assert of["pairs"].value == 8 and of["deviation"].value == pytest.approx(difference.std(ddof=1))
    assert of["d_z"].value == pytest.approx(size) and of["g_z"].value == pytest.approx(size * (1 - 3 / 27))
    assert of["p of t"].value == pytest.approx(stats.ttest_rel(none + difference, none).pvalue)
    assert of["p of Wilcoxon"].value == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert of["p by Holm"].value == of["p of t"].value and found.note is None
    assert [point.x for point in found.points] == [str(seed) for seed in range(8)]
    json.dumps(found.as_json(), allow_nan=False)


def test_several_comparisons_by_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": float("nan")}) == {"a": 0.9}
    base = [0.90, 0.91, 0.92, 0.93]
    found = fit(rows(none=base, a=[v + 0.01 + 0.001 * i for i, v in enumerate(base)], b=[0.9, 0.93, 0.9, 0.94]), SPEC)
    p = {name: one.value for name, one in found.parameters.items()}
    assert p["p by Holm, a - none"] == pytest.approx(2 * p["p of t, a - none"])
    assert p["p by Holm, b - none"] == p["p of t, b - none"] > 0.05 > p["p by Holm, a - none"]
    assert "p of Wilcoxon, a - none" not in p  # 4 pairs cannot give a p below 0.125


def test_intervals_of_a_mean_cover_it() -> None:
    random, hits = np.random.default_rng(2), 0
    for repeat in range(40):
        difference = 0.01 + 0.005 * random.standard_normal(10)
        one = fit(rows(none=[0.5] * 10, all=list(0.5 + difference)), SPEC | {"name": f"f{repeat}"})
        mean = one.parameters["difference, all - none"]
        hits += (mean.low or 0) <= 0.01 <= (mean.high or 0)
    assert 0.8 * 40 <= hits <= 0.97 * 40


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({"none": [0.9, 0.91], "all": [0.92, 0.93]}, "not enough pairs of all - none: 2, at least 3 are needed"),
        (
            {"all": [0.9, 0.91, 0.92]},
            "no finished cell has axis.model.feedback=none, which `base` names; there are all",
        ),
        ({"none": [0.9, 0.91, 0.92]}, "no finished cell has another axis.model.feedback than none"),
        ({}, "no cell has these values"),
    ],
)
def test_where_nothing_can_be_said(levels: dict[str, Any], said: str) -> None:
    found = fit(rows(**levels), SPEC)
    assert found.note == said and not found.parameters


def test_differences_without_a_spread_are_not_tested() -> None:
    found = fit(rows(none=[0.5, 0.25, 0.75], all=[0.75, 0.5, 1.0]), SPEC)
    assert found.note == "all - none: all 3 differences are 0.25, so there is nothing to test"
    assert set(found.parameters) == {f"{name}, all - none" for name in ("difference", "pairs", "deviation")}


def test_two_cells_of_one_pair_are_refused() -> None:
    note = fit(rows(none=[0.5, 0.6, 0.7]) * 2, SPEC).note
    assert note == "two cells have axis.model.feedback=none and axis.seed=0; choose by `where`"
