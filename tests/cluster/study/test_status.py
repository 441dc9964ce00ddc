"""How far a study is, from what lies on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.run.states import RunState
from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.status import show, status


def test_cells_by_state_steps_cost_and_what_is_left(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    done, half, stopped, failed, _ = (
        cell(name, seconds, seed=i)
        for i, (name, seconds) in enumerate([("a", 100.0), ("b", 60.0), ("c", 5.0), ("d", 1.0), ("e", 0.0)])
    )
    assert status(study.path)["seconds_left"] is not None  # the plan says it
    done.run.finish({"step": 10, "epochs": 1, "accuracy": 0.5})
    half.run.tell(RunState.SAVED, step=4)
    (half.run.checkpoints / "step-00000004").mkdir(parents=True)
    stopped.run.stopped_file.write_text(json.dumps({"step": 3, "rule": "the loss is not finite"}))
    failed.run.tell(RunState.FAILED, reason="no weights")
    failed.tried(2)
    told = status(study.path)
    assert told["cells"] == {"finished": 1, "stopped": 1, "saved": 1, "waiting": 1, "failed": 1}
    assert [*told["cells"]] == ["finished", "stopped", "saved", "waiting", "failed"]
    assert (told["steps"], told["total_steps"]) == (10 + 4 + 3, 50)
    assert told["gpu_hours"] == pytest.approx(2 * 166 / 3600, abs=1e-6) and told["budget_gpu_hours"] is None
    assert told["reasons"] == {"d": "no weights", "c": "the loss is not finite"}
    assert told["revision"] == "0123456789ab" and told["study"] == "s"
    # 10 s a step, as in the finished one; 6, 10 and, of the one that failed, 10 are left; two cells at once
    assert told["seconds_left"] == pytest.approx((60 + 100 + 100) / 2)


def test_a_budget_that_is_spent(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    cell("a", 9.0)
    study.file.write_text(study.file.read_text() + "budget_gpu_hours: 0.005\n")
    (study.path / "budget.json").write_text('{"budget_gpu_hours": 0.005}')
    assert not status(study.path)["budget_reached"]
    (study.path / "reached.json").write_text('{"budget": 18.0}')
    told = status(study.path)
    assert told["budget_reached"] and told["budget_gpu_hours"] == 0.005


def test_people_see_a_table(study: StudyFolder, cell: Callable[..., CellFolder], capsys: pytest.CaptureFixture) -> None:
    cell("a").tried(2)
    show(study.path)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["study", "cells", "steps", "GPU-hours", "to", "a"]
    assert lines[1][1].strip() == "1 failed" and lines[-1][1].strip() == "see its log"


def test_where_no_study_is(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no study .it has no study.yaml.; give the folder that tdformer scale run"):
        status(tmp_path)
