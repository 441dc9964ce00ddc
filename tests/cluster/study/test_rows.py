"""Rows of a study's table, each read from what lies in the folder of its cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.rows import row, rows

START = {"start": 1, "time": "2026-01-02T03:04:05Z", "device": "CPU", "cpu": "AMD EPYC, AVX512", "world": 2}


def trained(cell: CellFolder) -> CellFolder:
    """Two steps that were logged, and an evaluation."""
    cell.run.starts.append(START | {"parameters": 123, "flop_image": 7, "flop_image_done": 9})
    cell.run.metrics.append({"step": 4, "epoch": 0, "loss": 2.0, "energy_mj": 0.5})
    cell.run.metrics.append({"step": 8, "epoch": 0, "loss": 1.0})
    cell.run.metrics.append({"step": 8, "epoch": 1, "eval_accuracy": 0.75, "eval_loss": 1.5})
    return cell


def test_what_a_clock_has_no_part_in(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    made = trained(cell("a", 90.0, seed=3))
    [found] = rows(study.path)
    assert found == row(made, 2, None)
    assert found["cell"] == "a" and found["digest"] == "of a" and found["axis.seed"] == 3
    assert (found["state"], found["revision"], found["world"]) == ("waiting", "r", 2)
    assert (found["machine"], found["date"]) == ("2 x AMD EPYC", "2026-01-02")
    assert (found["steps"], found["images"]) == (8, 64)
    assert (found["loss"], found["accuracy"], found["eval_loss"], found["energy_mj"]) == (1.0, 0.75, 1.5, 0.5)
    assert (found["parameters"], found["flop_image"], found["flop_image_done"]) == (123, 7, 9)
    assert found["gpu_hours"] == pytest.approx(0.05) and found["predicted.seconds_step"] == 3.0


def test_a_finished_cell_has_all_of_its_steps(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    trained(cell("a")).run.finish({"step": 10, "epochs": 1, "accuracy": 0.75})
    [found] = rows(study.path)
    assert (found["state"], found["steps"], found["images"]) == ("finished", 10, 80)


def test_of_a_cell_that_a_rule_has_ended_nothing_later_counts(
    study: StudyFolder, cell: Callable[..., CellFolder]
) -> None:
    made = trained(cell("a"))
    made.run.stopped_file.write_text(json.dumps({"step": 5, "rule": "is above"}))
    [found] = rows(study.path)
    assert (found["state"], found["steps"], found["images"]) == ("stopped", 5, 40)
    assert found["loss"] == 2.0 and found["accuracy"] is None


def test_one_that_has_not_begun_has_nothing(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    cell("b", seed=1), trained(cell("a", seed=0))
    assert [found["cell"] for found in rows(study.path)] == ["a", "b"]
    fresh = rows(study.path)[1]
    assert (fresh["steps"], fresh["gpu_hours"]) == (0, 0)
    for key in ("machine", "date", "loss", "accuracy", "seconds_step", "images_second", "peak_gib", "parameters"):
        assert fresh[key] is None, key
    assert "energy_mj" not in fresh


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no study .it has no study.yaml.; give the folder that tdformer scale run"):
        rows(tmp_path)
