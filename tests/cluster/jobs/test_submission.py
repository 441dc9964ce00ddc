"""Scripts of jobs, as submitit would hand them to sbatch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.jobs.submission import Array, Slurm, local


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts are made without one."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def options(script: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def test_a_script_has_what_was_asked_for_and_not_what_was_left_out(tmp_path: Path) -> None:
    job = Slurm(tmp_path / "logs", "/usr/bin/python3")
    job.ask_for({"job_name": "a", "time": 7, "nodes": 2, "partition": None, "signal_delay_s": 30})
    found = options(job.script())
    assert (found["job-name"], found["time"], found["nodes"]) == ("a", "7", "2")
    assert "partition" not in found and found["signal"] == "USR2@30"
    assert found["output"].startswith(str(tmp_path / "logs"))
    job.ask_for({"time": None})
    assert options(job.script())["time"] == "7"
    assert job.command.startswith("/usr/bin/python3 ") and job.command in job.script()


def test_an_array_runs_its_command_in_each_element_and_so_many_at_once(tmp_path: Path) -> None:
    array = Array(tmp_path / "logs", "python -m cell 'a b'", count=5, at_once=2)
    array.ask_for({"job_name": "s", "time": 7})
    script = array.script()
    assert options(script)["array"] == "0-4%2" and array.command == "python -m cell 'a b'" in script
    array.ask_for({"time": 8})
    assert options(array.script())["time"] == "8" and options(array.script())["array"] == "0-4%2"


def test_a_job_of_this_machine_has_its_processes_and_no_end(tmp_path: Path) -> None:
    job = local(tmp_path, processes=3, gpus=0)
    assert job.parameters["tasks_per_node"] == 3 and job.parameters["stderr_to_stdout"]
    assert job.parameters["timeout_min"] >= 10**6 and job.max_num_timeout >= 10**6
