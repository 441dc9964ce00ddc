"""What runs a cell: which one it is in an array, and that nothing runs where nothing is to be done any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.study.element import main, of_array
from cluster.study.folder import CellFolder, StudyFolder


@pytest.fixture
def array(study: StudyFolder, cell: Callable[..., CellFolder], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two cells; this is the second."""
    cell("a"), cell("b")
    file = study.arrays / "1.json"
    file.write_text(json.dumps({"name": "s-1", "cells": ["a", "b"], "id": "12"}))
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    return file


def finished(cell: CellFolder) -> None:
    cell.run.finish({"step": 10, "epochs": 1, "accuracy": 0.75})


def stopped(cell: CellFolder) -> None:
    cell.run.stopped_file.write_text('{"step": 3, "rule": "is above"}')


def spent(cell: CellFolder) -> None:
    study = cell.path.parents[1]
    (study / "budget.json").write_text('{"budget_gpu_hours": 1}')
    (study / "reached.json").write_text('{"budget": 3600}')


def test_a_task_knows_its_cell_by_its_number(array: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert of_array(str(array)).path.name == "b"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert of_array(str(array)).path.name == "a"


@pytest.mark.parametrize("over", [finished, stopped, spent])
def test_where_nothing_is_to_be_done_no_rank_starts_and_no_job_is_queued_again(
    array: Path, over: Callable[[CellFolder], None]
) -> None:
    """There is no Slurm here that could be asked."""
    cell = of_array(str(array))
    over(cell)
    assert main("rank", str(array)) == 0
    assert not cell.run.status() and not list(cell.path.glob("usage/*"))
    assert main("aftermath", str(array), "143") == 143
    assert [row["exit_code"] for row in cell.attempts.read()] == [143]
    assert not cell.run.crashes.path.exists()
