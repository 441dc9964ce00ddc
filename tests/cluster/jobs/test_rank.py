"""What a job's tasks run: their exit codes, what is told of an error, and with what a job was launched."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import load, to_yaml
from cluster.errors import InUse, NoMeeting, RunError
from cluster.jobs.rank import Job, attempted, launched
from cluster.run.folder import RunFolder
from pipelines.errors import DataError
from tdformer.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    found = RunFolder(tmp_path / "run")
    found.tell("running", step=7, job="12")
    return found


def failing(error: Exception):
    def train() -> int:
        raise error

    return train


def test_the_exit_code_is_that_of_training(folder: RunFolder) -> None:
    assert [attempted(folder, lambda code=code: code) for code in (0, 143)] == [0, 143]
    assert folder.status()["state"] == "running"


@pytest.mark.parametrize("error", [RunError("no\nweights"), DataError("no weights"), ModelError("no  weights")])
def test_a_users_error_is_2_and_told_in_a_line(folder: RunFolder, error: Exception, capsys) -> None:
    assert attempted(folder, failing(error)) == 2
    assert capsys.readouterr().err == "error: no weights\n"
    status = folder.status()
    assert (status["state"], status["reason"], status["step"], status["job"]) == ("failed", "no weights", 7, "12")


@pytest.mark.parametrize("error", [NoMeeting("nobody came"), InUse("in use")])
def test_what_another_start_may_not_meet_is_1_and_no_failure(folder: RunFolder, error: Exception, capsys) -> None:
    assert attempted(folder, failing(error)) == 1
    assert capsys.readouterr().err == f"error: {error}\n" and folder.status()["state"] == "running"


def test_a_bug_is_1_with_its_traceback(folder: RunFolder, capsys) -> None:
    assert attempted(folder, failing(ZeroDivisionError())) == 1
    assert "Traceback" in capsys.readouterr().err and folder.status()["state"] == "running"


def test_a_job_that_is_queued_again_is_the_same(tmp_path: Path) -> None:
    job = Job(tmp_path)
    again = job.checkpoint()
    assert again.function is job and job.folder == tmp_path


def test_what_a_job_was_launched_with_is_what_was_written_then(folder: RunFolder, shards: Path) -> None:
    config = load(None, [f"data.root={shards}", "data.dataset=digits", "train.lr=0.5"])
    folder.launch_file.write_text(to_yaml(config))
    assert launched(folder).train.lr == 0.5
