"""Cells as bars of parts."""

from __future__ import annotations

import pytest
from made_up_study import cell, drawn, traces


def test_bars_are_means_of_parts() -> None:
    plot = drawn({"kind": "steptime", "by": "axis.processes"})
    [compute] = traces(plot, "compute")
    assert compute["x"] == ["processes 1", "processes 2", "processes 4"]
    assert compute["y"][0] == pytest.approx(0.8 * 2 * 1.05 * 1.01)
    assert [one["name"] for one in plot.traces] == ["data", "compute", "other", "whole step"]
    [whole] = traces(plot, "whole step")
    assert whole["y"][0] == pytest.approx(2 * 1.05 * 1.01)
    assert whole["error_y"]["array"][0] == pytest.approx(0.2 * 2 * 1.05 * 1.01)
    memory = drawn({"kind": "memory", "where": {"axis.seed": 0}})
    assert traces(memory, "weights")[0]["y"] == pytest.approx([0.2] * 6)
    assert traces(memory, "measured peak")[0]["y"][:3] == pytest.approx([0.6, 0.7, 0.9])
    assert [one["name"] for one in drawn({"kind": "steptime", "source": "predicted"}).traces] == [
        "compute",
        "whole step",
    ]
    goodput = drawn({"kind": "goodput"})
    assert [(one["name"], one["y"][0]) for one in goodput.traces] == [
        ("good", pytest.approx(80)),
        ("data", pytest.approx(5)),
        ("start", pytest.approx(15)),
    ]
    assert traces(drawn({"kind": "goodput", "unit": "hours"}), "good")[0]["y"][0] == pytest.approx(0.4)


def test_simulated_bars_are_hollow() -> None:
    of = [cell("none", 1, 0), cell("none", 2, 0) | {"simulated": True}]
    plot = drawn({"kind": "memory"}, of)
    assert {one["name"]: one["marker"]["color"] == "#ffffff" for one in plot.traces if one["type"] == "bar"} == {
        "activations": False,
        "activations (simulated)": True,
        "weights": False,
        "weights (simulated)": True,
    }


@pytest.mark.parametrize(
    ("bars", "named", "turned"), [(8, True, False), (9, True, True), (16, True, True), (17, False, True)]
)
def test_names_that_would_lie_on_each_other_are_hidden(bars: int, named: bool, turned: bool) -> None:
    """Pointing at a bar says which it is all the same."""
    plot = drawn({"kind": "memory"}, [cell("none", n + 1, 0) for n in range(bars)])
    axis = plot.layout["xaxis"]
    assert isinstance(axis, dict)
    assert (axis["showticklabels"], axis["tickangle"] != 0) == (named, turned)
    for trace in plot.traces:
        assert len(set(trace["x"])) == len(trace["hovertext"]) == bars
        assert all(f"none-{n + 1}-0" in text for n, text in enumerate(trace["hovertext"]))
