"""`tdformer energy`: what it refuses before a model is read; what it prints is in test_energy.py of the paper."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.root=x"], "data.root=x is a setting, and the run comes first: tdformer energy runs/quickstart"),
        (["none"], "none: no such run folder"),
        (["run", "--report", "e.txt"], "e.txt: a report is a page of HTML"),
    ],
)
def test_one_line_before_anything_is_counted(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("energy", *words)


@pytest.mark.parametrize("words", [["run", "--images", "0"], ["run", "--images", "few"], []])
def test_options_are_checked(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["energy", *words]).exit_code == 2
