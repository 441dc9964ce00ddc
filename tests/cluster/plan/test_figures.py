"""A plan's figures: as a row, as JSON, as a page and in a line, also where one of them is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.plan.figures import Figure, Plan


def section(unit: str, **values: float | None) -> dict[str, Figure]:
    return {key: Figure(value, unit, f"of {key}") for key, value in values.items()}


PLAN = Plan(
    about={"model": "m", "global_batch": 64},
    fits=True,
    memory=section("GiB", weights=0.5, kept_activations=1.5, total=2.0, available=79.9, largest_micro_batch=1234.0),
    host=section("GiB", libraries=0.25, total=1.0),
    step=section("s", matrix=0.75, loader=None, hidden_gradients=0.5, total=0.0123456),
    run=section("h", hours=12.0) | {"gpu_hours": Figure(24.0, "GPU-hours", "")},
    checkpoint=section("min", interval=30.0),
    disk=section("GB", total=1234.5),
    warnings=("look here",),
)


def test_a_row_has_parts_and_sums_without_what_stands_beside_them() -> None:
    assert PLAN.row() == {
        "predicted.seconds_step": 0.0123456,
        "predicted.peak_gib": 0.5 + 1.5 + 0.25,
        "predicted.seconds.matrix": 0.75,
        "predicted.seconds.loader": None,
        "predicted.gib.weights": 0.5,
        "predicted.gib.kept_activations": 1.5,
        "predicted.gib.libraries": 0.25,
    }
    on_gpu = replace(PLAN, host=section("GiB", libraries=None))
    assert on_gpu.row()["predicted.peak_gib"] == 2.0 and "predicted.gib.libraries" not in on_gpu.row()


def test_programs_get_each_figure_with_its_source() -> None:
    told = PLAN.as_json()
    assert told["memory"]["weights"] == {"value": 0.5, "unit": "GiB", "source": "of weights"}
    assert told["fits"] is True and told["warnings"] == ["look here"] and told["about"] == PLAN.about
    assert [*told][2:-1] == [*PLAN.sections()] and "memory" in PLAN.sections()


def test_people_get_a_line_each() -> None:
    lines = PLAN.text().splitlines()
    assert lines[0] == "model m, global batch 64" and lines[-1] == "warning: look here"
    found = {line.split("  ")[1]: line.split() for line in lines if line.startswith("  ")}
    assert found["loader"][-4:] == ["not", "known", "of", "loader"]
    assert " 1,234 GiB  of largest_micro_batch" in next(line for line in lines if "largest micro batch" in line)
    assert [line for line in lines if line in PLAN.sections()] == [*PLAN.sections()]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "plan: 2 GiB a process of 79.9; 0.0123 s a step, 12 h, 24 GPU-hours"),
        ({"memory": section("GiB", total=1234.5, available=None)}, "plan: 1,234 GiB a process; 0.0123 s a step, 12 h"),
        ({"run": section("h", hours=None)}, "plan: 2 GiB a process of 79.9; time is not known (of hours)"),
    ],
)
def test_a_launch_gets_one_line(changes: dict, line: str) -> None:
    assert replace(PLAN, **changes).line().startswith(line)
