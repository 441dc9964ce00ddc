"""`tdformer scale`: which study is meant, and how far it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.cli.scale import _studies


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "train.lr=1"], "train.lr=1 is a setting, and the study comes first: tdformer scale run weak_scaling"),
        (["run", "none.yaml"], "none.yaml: no such configuration file"),
        (["run", "weak_scaling", "--where", "moon"], "--where is moon; choose auto, slurm or local"),
        (["status", "none"], "none is no study (it has no study.yaml)"),
    ],
)
def test_one_line_and_nothing_is_begun(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("scale", *words)


def test_how_far_a_study_is_for_people_and_for_programs(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: s\nconfig: digits\ngrid: {seed: [0]}\n")
    (tmp_path / "code").mkdir()
    shown, told = (CliRunner().invoke(app, ["scale", "status", str(tmp_path), *more]) for more in ([], ["--json"]))
    assert shown.exit_code == told.exit_code == 0
    assert json.loads(told.stdout)["cells"] == {} and "GPU-hours" in shown.stdout


def test_studies_that_a_shell_completes() -> None:
    assert "weak_scaling" in _studies("weak") and _studies("zz") == []
