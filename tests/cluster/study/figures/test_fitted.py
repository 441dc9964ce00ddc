"""Fits, drawn with what was held out."""

from __future__ import annotations

import pytest
from made_up_study import drawn, traces

from cluster.study.figures.base import Nothing


def test_a_fit_shows_what_was_held_out() -> None:
    plot = drawn({"kind": "fit", "fit": "power"})
    assert [one["x"] for one in traces(plot, "measured")] == [[1, 2]] * 2
    titles = [plot.layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis", "yaxis2")]
    assert titles == ["processes", "training loss", "off by (%)"]
    [point, off] = traces(plot, "held out")
    assert point["x"] == [4] and off["y"] == [pytest.approx(100 * (2 / 2.02 - 1))] and off["yaxis"] == "y2"
    assert plot.note == (
        "y = a x^-b; a = 2 (1.9 to 2.1); off by 1 % (root mean square); held-out points off by 1 % (root mean square)."
    )
    with pytest.raises(Nothing, match="few: not enough cells: 3, at least 6 are needed"):
        drawn({"kind": "fit", "fit": "few"})
    with pytest.raises(Nothing, match="no fit powr; the nearest is power"):
        drawn({"kind": "fit", "fit": "powr"})
