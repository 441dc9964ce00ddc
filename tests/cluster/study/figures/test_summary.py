"""The table of cells."""

from __future__ import annotations

from made_up_study import cell, fits

from cluster.study.figures.base import Cells, Table, figure


def test_a_line_for_each_cell_with_what_was_asked_for() -> None:
    of = [cell("none", 1, 0), cell("all", 1, 0) | {"simulated": True}]
    one = figure({"kind": "table", "columns": ["loss", "accuracy"]}, "report.figures[0]").draw(Cells(of, fits()))
    assert isinstance(one, Table)
    assert len(one.head) == len(one.body[0]) == len(one.body[1]) and len(one.body) == 2
    assert [line[0] for line in one.body] == ["none-1-0", "all-1-0"]
    assert [line[1] for line in one.body] == ["finished", "finished (simulated)"]
    assert [line[-2:] for line in one.body] == [[0.5, of[0]["accuracy"]], [0.5, of[1]["accuracy"]]]
