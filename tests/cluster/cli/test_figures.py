"""`tdformer figures`: words that are options, and names that a shell completes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.figures import figure_names
from cluster.errors import RunError
from tdformer.errors import ModelError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=6"], "images=6 is an option, and no figure is named; tdformer figures 2 --from runs/a"),
        (["2"], "runs/a: no such run folder"),
        (["twelve"], "figure of the paper 'twelve' is unknown"),
    ],
)
def test_one_line_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, ["figures", *words, "--from", "runs/a"]).exception
    assert isinstance(error, RunError | ModelError) and message in str(error) and "\n" not in str(error)
    assert not any(tmp_path.iterdir())


def test_it_needs_a_run() -> None:
    assert CliRunner().invoke(app, ["figures", "2"]).exit_code == 2


def test_names_that_a_shell_completes() -> None:
    assert figure_names("sens") == ["sensitivity"] and set(figure_names("")) >= {"1", "2", "3", "4", "5"}
