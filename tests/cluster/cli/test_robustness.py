"""`tdformer robustness`: its lists of kinds and severities, and what it refuses before a run is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.robustness import _kinds, _severities
from cluster.errors import RunError


def test_lists_are_in_order_and_without_repetition() -> None:
    assert _severities("4,1,4") == (1, 4) and _severities("1,2,3,4,5") == (1, 2, 3, 4, 5)
    assert _kinds("") is _kinds("all") is None and _kinds("snow,fog,snow") == ("snow", "fog")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.root=elsewhere"], "data.root=elsewhere is a setting, and no run is given; tdformer robustness runs/"),
        (["runs/a", "--severities", "6"], "--severities 6: they are 1 to 5; give some of 1,2,3,4,5"),
        (["runs/a", "--severities", "1,,2"], "--severities 1,,2: they are 1 to 5"),
        (["runs/a", "--out", "table.csv"], "table.csv: a table is Markdown or JSON; end its name with .md or .json"),
        (["runs/a"], "runs/a: no such run folder"),
    ],
)
def test_one_line_before_a_run_is_opened(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("robustness", *words)


def test_a_run_whose_name_looks_like_a_setting_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    error = CliRunner().invoke(app, ["robustness", "lr=1"]).exception
    assert isinstance(error, RunError) and "no run is given" not in str(error)
