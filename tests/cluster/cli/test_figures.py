"""`tdformer figures`: words that are options, and names that a shell completes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.figures import figure_names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images=6"], "images=6 is an option, and no figure is named; tdformer figures 2 --from runs/a"),
        (["2"], "runs/a: no such run folder"),
        (["twelve"], "figure of the paper 'twelve' is unknown"),
    ],
)
def test_one_line_and_no_folder(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("figures", *words, "--from", "runs/a")


def test_it_needs_a_run() -> None:
    assert CliRunner().invoke(app, ["figures", "2"]).exit_code == 2


def test_names_that_a_shell_completes() -> None:
    assert figure_names("sens") == ["sensitivity"] and set(figure_names("")) >= {"1", "2", "3", "4", "5"}
