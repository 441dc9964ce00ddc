"""A curve: means from the lowest to the highest."""

from __future__ import annotations

import pytest
from made_up_study import drawn


def test_a_curve_is_the_mean_from_the_lowest_to_the_highest() -> None:
    plot = drawn({"kind": "curve", "x": "axis.processes", "y": "accuracy", "where": {"axis.model.feedback": ["none"]}})
    [line] = plot.traces
    assert line["name"] == "measured" and line["y"] == pytest.approx([0.81] * 3)
    assert line["error_y"]["array"] == pytest.approx([0.01] * 3) == line["error_y"]["arrayminus"]
    assert line["hovertext"][0].endswith("3 cells: none-1-0, none-1-1, none-1-2")
    lines = drawn({"kind": "curve", "x": "axis.processes", "y": "accuracy", "log": "x"})
    assert [one["name"] for one in lines.traces] == ["feedback none", "feedback all"]
    assert lines.layout["xaxis"]["type"] == "log" and lines.layout["yaxis"]["type"] == "linear"
    each = drawn(
        {"kind": "curve", "x": "axis.processes", "y": "accuracy", "group": ["axis.seed", "axis.model.feedback"]}
    )
    assert len(each.traces) == 6 and each.traces[0]["name"] == "seed 0, feedback none"
    texts = drawn({"kind": "curve", "x": "axis.model.feedback", "y": "accuracy", "group": []})
    assert texts.layout["xaxis"]["type"] == "category" and texts.traces[0]["x"] == ["none", "all"]
