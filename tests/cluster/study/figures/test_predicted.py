"""Predicted and measured, beside each other."""

from __future__ import annotations

import pytest
from made_up_study import drawn, traces


def test_predictions_are_off_by_so_much() -> None:
    plot = drawn({"kind": "predicted"})
    points, off = traces(plot, "measured")
    assert points["y"] == pytest.approx([1.05 * x for x in points["x"]])
    assert off["y"] == pytest.approx([5.0] * 18) and len(off["x"]) == 18
    assert plot.note == "18 cells: off by 5.0 % in the median, 5.0 % at most."
    [diagonal] = traces(plot, "predicted = measured")
    assert diagonal["x"] == diagonal["y"]
