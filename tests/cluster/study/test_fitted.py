"""What a fit says of the cells that it uses."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.study import curves
from cluster.study.fits import fit
from cluster.study.table import Row


def test_what_of_the_cells_is_used_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "RESAMPLES", 40)
    sizes = np.geomspace(1, 100, 8).tolist()
    table: list[Row] = [{"cell": f"c{i}", "loss": 0.5 + x**-0.5, "images": x} for i, x in enumerate(sizes)]
    table[0] |= {"state": "failed"}
    table[1] |= {"state": "finished", "simulated": True}
    table[2]["loss"] = None
    found = fit(table, {"name": "p", "kind": "power", "y": "loss", "x": "images"})
    assert found.note == (
        "2 cells are not finished or without images or loss: left out; 1 of 6 cells are simulated, not run; "
        "no cell is held out: without the largest, not enough cells: 4, at least 5 are needed"
    )
    assert len(found.points) == 6 and found.held_out is None and found.parameters["alpha"].value == pytest.approx(0.5)
