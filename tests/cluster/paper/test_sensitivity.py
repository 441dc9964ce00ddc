"""How far potentials depend on earlier ones, drawn from runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError
from cluster.paper.opening import Run
from cluster.paper.sensitivity import LEVELS, Sensitivities, measured


def test_sensitivity_of_runs_with_feedback_and_without(tmp_path: Path, drawn: Callable[..., Any]) -> None:
    rows, page = drawn("sensitivity", ["off", "run"], tmp_path, "images=2")
    zero: dict[tuple[str, str], Any] = {(row["run"], row["unit"]): float(row["zero"]) for row in rows}
    assert {(row["from"], row["to"]) for row in rows} == {("1", "2")} and len(zero) == len(rows)
    fed = "backbone.stages.2.0.mlp.fc2.neuron"
    assert zero["run", fed] < zero["off", fed]  # what fired has no effect on itself, and comes back by feedback
    assert "no feedback, 1 run: " in page and "feedback (concat), 1 run: " in page


def test_one_time_step_has_no_earlier_potential(folder: Path) -> None:
    run = Run.open(str(folder / "run"))
    run.model.time_steps = 1
    with pytest.raises(RunError, match="run has one time step, and so no earlier potential; leave it out"):
        Sensitivities().check([run])


def test_shares_above_each_level_fall_and_those_without_effect_are_counted(folder: Path) -> None:
    found = measured(Run.open(str(folder / "off")), 2)
    assert found and {(one.source, one.target) for one in found} == {(1, 2)}
    for one in found:
        assert len(one.above) == len(LEVELS) and one.above == sorted(one.above, reverse=True)
        assert one.above[0] <= 1 - one.zero + 1e-12 and (one.rms > 0) == (one.zero < 1)
    assert len({one.unit for one in found}) == len(found) and not any(".control." in one.unit for one in found)
