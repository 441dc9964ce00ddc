"""Commands of jobs: options that do not go together are one line, before anything is loaded or asked of Slurm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.config import Config
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.run.states import RunState


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan digits --measure --gpus-per-node 1", "--measure times the CPU of this machine; leave it out, or --gpu"),
        ("plan digits --measure --nodes 2", "--measure times the CPU of this machine"),
        ("plan digits --gpu h100 --gpus-per-node 0", "--gpu h100 is of GPUs, and --gpus-per-node is 0; leave one out"),
        ("plan digits --gpu h1000", "no GPU is called 'h1000'; did you mean"),
        ("plan train.lr=1", "train.lr=1 is a setting, and the configuration comes first: tdformer plan quickstart"),
        ("launch digits --where moon", "--where is moon; choose auto, slurm or local"),
        ("resume runs/none", "runs/none"),
        ("stop runs/none", "runs/none"),
        ("logs runs/none", "runs/none"),
        ("status none", "none: no such folder; it appears with the first run, or give the folder of yours"),
    ],
)
def test_one_line(refused: Callable[..., str], words: str, message: str) -> None:
    assert message in refused(*words.split())


@pytest.mark.parametrize(
    "words", ["plan digits --nodes 0", "plan digits --mtbf 0", "launch digits --gpus-per-node -1", "logs run --rank -1"]
)
def test_numbers_have_their_limits(words: str) -> None:
    assert CliRunner().invoke(app, words.split()).exit_code == 2


def test_a_table_for_people_and_a_line_a_run_for_programs(tmp_path: Path) -> None:
    for name, state in (("a", RunState.SAVED), ("b", RunState.FAILED)):
        folder = RunFolder(tmp_path / "runs" / name)
        folder.open(Config())
        folder.tell(state)
    told = CliRunner().invoke(app, ["status", "--json"])
    found = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.exit_code == 0 and [(row["run"], row["state"]) for row in found] == [("a", "saved"), ("b", "failed")]
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0 and all(word in shown.stdout for word in ("a", "b", "saved", "failed"))
    error = CliRunner().invoke(app, ["status", "--json", "--watch"]).exception
    assert isinstance(error, RunError) and "--watch renews the table, and --json is no table" in str(error)
