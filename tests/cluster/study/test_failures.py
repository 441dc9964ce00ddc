"""Failures that a study asks for: what they leave of a cell, and what is told of them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forked import Command, apart
from forked_study import FORKED, STEPS

from cluster.errors import RunError
from cluster.study.failures import drawn, injected
from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.rows import rows
from cluster.study.running import run
from cluster.study.table import Row, without_clock

ROOT = Path(__file__).parents[3]
MEAN = 10.0
HOLD = """\
import time
from pathlib import Path
from cluster.train.hooks import HOOKS, Hook

@HOOKS.register("hold")
class Hold(Hook):
    def step(self, step):
        failures = Path(self.config.runs_dir) / self.config.name / "failures.jsonl"
        started = len(failures.read_text().splitlines()) if failures.exists() else 0
        while failures.parts[-4] == "killed" and started < 2 and step.number == 4 + 3 * started:
            time.sleep(0.1)
            started = len(failures.read_text().splitlines()) if failures.exists() else 0
"""
"""A hook that holds the first two starts of a cell until they are killed."""


@pytest.fixture
def study(tmp_path: Path, settings: str) -> Callable[[str, str], Row]:
    """Runs a study of one cell to its end; returns its row."""
    (tmp_path / "hold.py").write_text(HOLD)
    env = os.environ | {"TDFORMER_KERNELS": "reference", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def go(name: str, text: str) -> Row:
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n{settings}{text}")
        words = ("scale", "run", f"{name}.yaml", "plugins=[./hold.py]", "train.hooks=[hold]")
        done = Command(*words, cwd=tmp_path, env=env, program=FORKED, merged=True).completed(200)
        assert done.returncode == 0, done.stdout
        [row] = rows(tmp_path / "runs" / name)
        return row

    return go


def test_times_are_exponential_and_the_same_for_the_same_start() -> None:
    times = np.array([drawn(0, {"seed": 1}, start, MEAN)[0] for start in range(2000)])
    assert times.min() > 0 and abs(times.mean() / MEAN - 1) < 0.1
    for share in (0.1, 0.5, 0.9):  # of the law's own quantiles
        assert abs((times < -MEAN * np.log(1 - share)).mean() - share) < 0.05
    assert drawn(0, {"seed": 1}, 5, MEAN)[0] == times[5]
    others = {drawn(*key, MEAN)[0] for key in ((1, {"seed": 1}, 5), (0, {"seed": 2}, 5), (0, {"seed": 1}, 6))}
    assert len(others) == 3 and times[5] not in others


def held(cell: Path) -> None:
    """A start that would take a minute."""
    with injected(CellFolder(cell), time.monotonic()):
        time.sleep(60)


def test_a_kill_is_noted_and_is_none_of_the_tries(tmp_path: Path) -> None:
    cell, facts = CellFolder(tmp_path), {"digest": "0", "axes": {}, "nodes": 1, "processes": 1, "gpus": 0}
    facts |= {"steps": 1, "images": 1, "failures": {"mtbf_hours": 1e-5, "kills": "all", "seed": 0}}
    cell.run.cell_file.write_text(json.dumps(facts))
    with pytest.raises(AssertionError):  # it does not end well
        apart(held, tmp_path)
    [row] = cell.failures.read()
    assert row["killed"] == row["pid"]
    cell.tried(-signal.SIGKILL, row["pid"])
    assert cell.attempts.read()[0]["injected"] and cell.crashes() == 0
    cell.tried(2, row["pid"])  # a rank saw another one go, and ended with what looks like a user's error
    assert not cell.wrong()
    cell.tried(-signal.SIGKILL, row["pid"] + 1)  # of another start: nobody knows who did that
    assert cell.crashes() == 1 and len(cell.attempts.read()) == 3


def test_a_cell_that_is_killed_twice_has_the_row_of_one_that_was_not(
    tmp_path: Path, study: Callable[[str, str], Row]
) -> None:
    seed = 22217
    first, second, third = (drawn(seed, {"seed": 0, "processes": 2}, start, MEAN)[0] for start in (1, 2, 3))
    assert max(first, second) < 9 and third > 60  # where the third start takes longer there is a fourth
    grid = "tries: 1\nbudget_gpu_hours: 1\ngrid: {seed: [0], processes: [2]}\n"
    calm = study("calm", grid)
    killed = study("killed", f"{grid}failures: {{mtbf_hours: {MEAN / 3600}, kills: one, seed: {seed}}}\n")
    names = ("cell", "digest")  # failures are a part of what a cell is
    one, other = ({k: v for k, v in row.items() if k not in names} for row in without_clock([calm, killed]))
    assert one == other and one["state"] == "finished"
    [cell] = StudyFolder(tmp_path / "runs" / "killed").cells
    failures, attempts = cell.failures.read(), cell.attempts.read()
    assert len(failures) == killed["failures"] == len(attempts) - 1 >= 2
    assert any(row["killed"] != row["pid"] for row in failures)  # a rank; before there were some, their parent
    assert [row.get("injected", False) for row in attempts] == [True] * len(failures) + [False]
    done = [row["step"] for row in cell.run.speed.read()]
    assert killed["again"] == len(done) - STEPS
    assert killed["predicted.failures"] > 0 and killed["predicted.again"] > 0 and killed["predicted.best_every"] > 0
    assert 0 <= killed["predicted.good"] < 1 and "failures" not in calm and "predicted.good" not in calm


def test_failures_are_of_cells_on_this_machine(tmp_path: Path, settings: str) -> None:
    text = "budget_gpu_hours: 1\nfailures: {mtbf_hours: 1}\ngrid: {seed: [0]}\n"
    (tmp_path / "s.yaml").write_text(f"name: s\n{settings}{text}")
    with pytest.raises(RunError, match="study s: failures are of cells on this machine; --where local"):
        run(tmp_path / "s.yaml", [f"runs_dir={tmp_path}"], where="slurm")
    assert not (tmp_path / "s" / "study.yaml").exists()
