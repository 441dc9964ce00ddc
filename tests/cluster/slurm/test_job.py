"""A job's number, and what squeue's words of it mean."""

from __future__ import annotations

import pytest

from cluster.slurm.job import UNKNOWN, State, this_job


@pytest.mark.parametrize(
    ("variables", "number"),
    [({}, None), ({"JOB_ID": "12"}, "12"), ({"JOB_ID": "13", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3"}, "12_3")],
)
def test_an_element_of_an_array_has_a_number_of_its_own(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], number: str | None
) -> None:
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert this_job() == number


@pytest.mark.parametrize(
    ("left", "seconds"),
    [("1:05", 65), ("1:00:05", 3605), ("2-01:00:00", 176_400), ("UNLIMITED", None), ("INVALID", None), ("", None)],
)
def test_the_time_to_its_limit(left: str, seconds: int | None) -> None:
    assert State("RUNNING", "None", left).seconds_left == seconds


def test_a_job_that_nobody_knows_of_is_not_alive() -> None:
    assert not State().alive and not State().unknown and not State().waits
    unknown = State(UNKNOWN, "squeue is gone")
    assert unknown.unknown and not unknown.alive and unknown.why("12") == "squeue is gone"
