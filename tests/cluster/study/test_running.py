"""Studies that run here: killed at any moment, again and again, they end with the table of one that nothing happened
to; failures by cause; the budget; what may change in a study that was begun."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Command, children
from forked_study import FORKED, STEPS, Kept, without_clock

from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.rows import rows
from cluster.study.status import status
from cluster.study.table import Row
from cluster.study.usage import device_seconds

ROOT = Path(__file__).parents[3]


@pytest.fixture
def begin(tmp_path: Path, settings: str) -> Callable[..., Command]:
    env = os.environ | {"TDFORMER_KERNELS": "reference", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def start(name: str, text: str, *words: str) -> Command:
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\n{settings}{text}")
        given = ("scale", "run", f"{name}.yaml", *words)
        return Command(*given, cwd=tmp_path, env=env, program=FORKED, merged=True)

    return start


def logged(study: StudyFolder) -> int:
    return sum(len(cell.run.metrics.whole("step")[0]) for cell in study.cells)


GRID = "at_once: 2\ntries: 9\ngrid: {seed: [0, 1], processes: [1, 2]}\n"


def test_a_study_killed_again_and_again_has_the_table_of_one_that_was_not(
    tmp_path: Path, begin: Callable[..., Command]
) -> None:
    done = begin("calm", GRID).completed(300)
    assert done.returncode == 0, done.stdout
    rng, study = random.Random(7), StudyFolder(tmp_path / "runs" / "killed")
    kept = Kept(study)
    for kill in range(4):
        running = begin("killed", GRID)
        until = logged(study) + rng.randint(3, 10)
        deadline = time.monotonic() + 200
        while logged(study) < until and running.poll() is None:
            assert time.monotonic() < deadline, running.communicate(1)[0]
            time.sleep(0.02)
        below = sorted(children(running.pid))
        if kill % 2 and below:  # one cell, of those that run
            os.kill(rng.choice(below), signal.SIGKILL)
            time.sleep(rng.random())
        running.kill()
        running.communicate()
        kept.note()
    last = begin("killed", GRID).completed(300)
    assert last.returncode == 0 and "4 of 4 cells are finished" in last.stdout, last.stdout
    assert without_clock(study.path) == without_clock(tmp_path / "runs" / "calm")
    assert len(kept.finished) < 4  # or nothing was left for the kills to hit
    starts, _ = kept.check()
    assert starts > 4
    told = status(study.path)
    assert told["cells"] == {"finished": 4} and told["steps"] == told["total_steps"] == 4 * STEPS
    alone = Command("resume", study.cells[0].path, cwd=tmp_path, merged=True).completed(100)
    assert alone.returncode == 2 and "is a cell of a study, which goes on with it: tdformer scale run" in alone.stdout
    again = begin("killed", GRID).completed(100)
    assert again.returncode == 0 and "running" not in again.stdout, again.stdout
    changed = begin("killed", GRID.replace("[0, 1]", "[0, 2]")).completed(100)
    assert changed.returncode == 2 and "this study has not: it is another one" in changed.stdout
    more = GRID.replace("at_once: 2", "at_once: 1\nbudget_gpu_hours: 0.0001\nreport: {figures: []}")
    more = begin("killed", more.replace("[0, 1]", "[0, 1, 2]")).completed(100)
    assert more.returncode == 1 and "6 cells" in more.stdout and " and 0 are left of the budget" in more.stdout
    assert not any(cell.run.starts.path.exists() for cell in study.cells if "seed=2" in cell.path.name)


CRASH = """\
import os
from pathlib import Path
from cluster.train.hooks import HOOKS, Hook

@HOOKS.register("crash")
class Crash(Hook):
    def step(self, step):
        file = Path("{folder}") / f"crashed-{{self.config.seed}}"
        count = int(file.read_text()) if file.exists() else 0
        if step.number == 4 and count < 2 + 9 * self.config.seed:
            file.write_text(str(count + 1))
            os._exit(41)
"""


def test_failures_are_tried_again_by_their_cause(tmp_path: Path, begin: Callable[..., Command]) -> None:
    (tmp_path / "crash.py").write_text(CRASH.format(folder=tmp_path))
    text = f"""\
tries: 3
at_once: 4
cases:
- {{case: mended, train.hooks: [crash], seed: 0}}
- {{case: never, train.hooks: [crash], seed: 1}}
- {{case: wrong, model.weights: {tmp_path}/none.safetensors}}
- {{case: high, seed: 2}}
- {{case: diverges, train.lr: 1.0e+30, seed: 3}}
stop: {{loss_above: 0.1, after_step: 6, not_finite: true}}
"""
    words = (f"plugins=[{tmp_path}/crash.py]",)
    done = begin("causes", text, *words).completed(300)
    study = StudyFolder(tmp_path / "runs" / "causes")
    cells = {str(facts["axes"]["case"]): cell for cell in study.cells if (facts := cell.facts)}
    assert done.returncode == 1, done.stdout
    table = {row["axis.case"]: row for row in rows(study.path)}
    assert {case: row["state"] for case, row in table.items()} == {
        "mended": "stopped",
        "never": "failed",
        "wrong": "failed",
        "high": "stopped",
        "diverges": "stopped",
    }
    assert [cell_codes(cells[case]) for case in ("mended", "never", "wrong")] == [[41, 41, 143], [41] * 3, [2]]
    assert "none.safetensors" in done.stdout
    reasons = status(study.path)["reasons"]
    for case, step, rule in (("high", 7, "is above 0.1 after step 6"), ("diverges", 2, "the loss is not finite")):
        stopped: Row = table[case]
        assert stopped["steps"] == step and stopped["images"] == step * 60
        assert rule in reasons[cells[case].path.name]
    again = begin("causes", text, *words).completed(100)  # not before it is told
    assert again.returncode == 1 and len(cell_codes(cells["wrong"])) == 1
    again = begin("causes", text, *words, "--again").completed(200)
    assert again.returncode == 1 and cell_codes(cells["wrong"]) == [2, 2]


def cell_codes(cell: CellFolder) -> list[int]:
    return [row["exit_code"] for row in cell.attempts.read() if row["exit_code"] is not None]


def test_the_budget_is_never_exceeded(tmp_path: Path, begin: Callable[..., Command]) -> None:
    text = "at_once: 2\nbudget_gpu_hours: 0.003\ngrid: {seed: [0, 1, 2]}\n"
    done = begin("budget", text, "train.epochs=9999").completed(200)
    study = StudyFolder(tmp_path / "runs" / "budget")
    assert done.returncode == 1 and "budget reached: 0 cells finished, 3 not" in done.stdout, done.stdout
    spent = sum(device_seconds(cell.path) for cell in study.cells)
    assert 0 < spent <= 0.003 * 3600
    assert json.loads((study.path / "reached.json").read_text())["budget"] == pytest.approx(0.003 * 3600)
    assert status(study.path)["budget_reached"]
    again = begin("budget", text, "train.epochs=9999").completed(100)
    assert again.returncode == 1 and "running" not in again.stdout
    assert sum(device_seconds(cell.path) for cell in study.cells) == spent
