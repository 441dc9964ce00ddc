"""Pairs over seeds, with the interval of their mean."""

from __future__ import annotations

import pytest
from made_up_study import drawn, rows, traces
from scipy import stats


def test_pairs_have_the_interval_of_students_t() -> None:
    plot = drawn({"kind": "paired", "group": ["axis.processes"]})
    [mean] = traces(plot, "processes 2", xaxis="x2")
    differences = [0.02, 0.021, 0.022]
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert mean["y"] == [pytest.approx(0.021)]
    assert mean["error_y"]["array"][0] == pytest.approx((interval.high - interval.low) / 2)
    joined = traces(plot, "processes 2", x=["none", "all"])
    assert [one["y"] for one in joined] == [pytest.approx([0.8 + s / 100, 0.82 + 0.011 * s]) for s in range(3)]
    assert "processes 1: +0.021 ± 0.0025 (95 %, 3 pairs)" in plot.note
    turned = drawn({"kind": "paired", "group": ["axis.processes"], "values": ["all", "none"]})
    assert traces(turned, "processes 2", xaxis="x2")[0]["y"] == [pytest.approx(-0.021)]
    assert drawn({"kind": "paired"}, rows()[::-1]).note.startswith("all − none: ")
    assert drawn({"kind": "paired", "group": []}).note == "all − none: +0.021 ± 0.00067 (95 %, 9 pairs)."
    cases = [
        row | {"axis.case": row["axis.model.feedback"]} for row in rows()
    ]  # what decides another axis is no pair's
    more = [row | {"axis.case": "more", "cell": f"more-{i}"} for i, row in enumerate(cases[9:18])]
    spec = {"kind": "paired", "axis": "axis.case", "values": ["none", "all"], "group": "axis.processes"}
    assert drawn(spec, [*cases, *more]).note.count("3 pairs") == 3
    one = drawn({"kind": "paired", "where": {"axis.seed": 1, "axis.processes": 2}})
    assert one.note == "all − none: +0.021 of one pair, which has no interval."
