"""Where the time of a run went, from clocks written by hand: each second of them has one place."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config, load
from cluster.config.shape import Shape
from cluster.jobs.launch import note
from cluster.run.clock import PARTS
from cluster.run.folder import RunFolder
from cluster.run.goodput import CAUSES, LONGEST, account, steps
from cluster.run.speed import WARM_UP
from cluster.study.table import of_clock

LOADING, FIRST, STEP, WAIT, SAVE, EVALUATION, REST = 20.0, 5.0, 2.0, 0.5, 3.0, 7.0, 4.0
"""Seconds: before the first step; each of the first WARM_UP; a later one, of which WAIT for data; a save; ..."""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def start(run: RunFolder, number: int, first: int, last: int, world: int = 1, at: float = 1e9, **begun: Any) -> float:
    """A start from its first row on: steps after `first` up to `last`, with a row each 4 of them, then a save. Returns
    the seconds it lasted; what is to end it follows."""
    own = {"start": number, "world": world}
    facts = {"monotonic": 5.0, "host": "here", "pid": number, "job": None, "submitted": None, "heard": None}
    run.clock.append({**own, "time": at + 1, "seconds": 1.0, **facts, **run.mark(), **begun})
    spent = dict.fromkeys(PARTS, 0.0) | {"loading": LOADING}
    for step in range(first + 1, last + 1):
        if step - first <= WARM_UP:
            spent["warm_up"] += FIRST
        else:
            spent["data"], spent["train"] = spent["data"] + WAIT, spent["train"] + STEP - WAIT
        if step % 4 == 0 or step == last:
            row = {**own, "time": at, "step": step, "steps": step - first, **spent}
            run.clock.append(row | {"seconds": sum(spent.values())})
    spent["checkpoint"] += SAVE
    run.clock.append({**own, "time": at, "step": last, "steps": last - first, **spent, "seconds": sum(spent.values())})
    return sum(spent.values())


def ended(run: RunFolder, number: int, seconds: float, world: int = 1) -> float:
    """An evaluation, what comes after it, and the end. Returns the seconds that the start lasted."""
    last = run.clock.read()[-1]
    row = last | {"evaluation": EVALUATION, "seconds": seconds + EVALUATION}
    run.clock.append(row)
    own = {"start": number, "world": world, "time": 1.0, "exit_code": 0}
    run.clock.append(own | {"seconds": seconds + EVALUATION + REST})
    return seconds + EVALUATION + REST


def seconds(run: RunFolder) -> dict[str, float]:
    """Device-seconds by cause, without those that have none; they and the shares agree."""
    found = account(run)
    shares = {key: value for key, value in found.row().items() if key != "gpu_hours"}
    assert list(shares) == ["good", *(f"bad.{cause}" for cause in CAUSES)] and all(map(of_clock, found.row()))
    assert sum(share or 0 for share in shares.values()) == pytest.approx(1, abs=1e-5)
    assert found.row()["gpu_hours"] == pytest.approx(found.device_hours, abs=1e-6)
    assert min(found.spent.values()) >= 0
    return {cause: pytest.approx(value, abs=1e-6) for cause, value in found.spent.items() if value > 1e-9}


WARM = WARM_UP * (FIRST - STEP)
"""What the warm-up takes longer than as many other steps."""
ONE = {
    "good": 20 * STEP - 17 * WAIT,
    "data": 17 * WAIT,
    "start": LOADING + WARM,
    "checkpoint": SAVE,
    "evaluation": EVALUATION,
    "other": REST,
}
"""Of a start of 20 steps that ends by itself."""


def test_each_second_of_a_start_has_one_place(run: RunFolder) -> None:
    lasted = ended(run, 1, start(run, 1, 0, 20))
    kept = 17 * (STEP - WAIT) + WARM_UP * STEP
    assert seconds(run) == ONE | {"good": kept}
    assert account(run).device_hours == pytest.approx(lasted / 3600)
    said = str(account(run))
    assert said.startswith(f"{kept / lasted:.1%} of {lasted / 3600:.3g} device-hours in 1 start; start ")
    assert "recomputed" not in said and "again" not in said


def test_steps_that_a_kill_has_cost_are_counted_where_they_are_done_again(run: RunFolder) -> None:
    """Killed after step 20, begun again from 9 and, on other ranks, from 18 of 24."""
    start(run, 1, 0, 20)
    start(run, 2, 9, 24, world=2)
    ended(run, 3, start(run, 3, 18, 32, world=4), world=4)
    found = seconds(run)
    again = [WARM_UP * STEP + 8 * (STEP - WAIT), WARM_UP * STEP + 3 * (STEP - WAIT)]
    assert found["recomputed"] == 2 * again[0] + 4 * again[1] and account(run).again == 11 + 6
    assert found["good"] == 17 * (STEP - WAIT) + WARM_UP * STEP + 2 * 4 * (STEP - WAIT) + 4 * 8 * (STEP - WAIT)
    assert found["start"] == 7 * (LOADING + WARM) and found["evaluation"] == 4 * EVALUATION
    assert "; 17 steps were done again" in str(account(run))


def test_a_job_waits_from_its_submission_and_from_the_start_before(run: RunFolder) -> None:
    job = {"job": "7", "submitted": 1e9 - 100}
    lasted = start(run, 1, 0, 8, world=2, **job)
    start(run, 2, 8, 12, world=2, at=1e9 + lasted + 30, **job)
    assert seconds(run)["queue"] == 2 * (100 + 30)
    hours = account(run).device_hours
    start(run, 3, 12, 16, world=2, at=1e9 + 10**6, **job | {"job": None})  # by hand: nothing waited for that
    assert seconds(run)["queue"] == 2 * (100 + 30) and hours < account(run).device_hours < 2 * hours


def test_an_element_of_a_job_array_waits_as_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm gives each element a number of its own beside the array's."""
    for name, value in (("JOB_ID", "15"), ("ARRAY_JOB_ID", "12"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    folder, config = RunFolder(tmp_path / "run"), load("digits", [f"runs_dir={tmp_path}", "name=run"])
    folder.open(config)
    note(folder, "12_3", Shape(1, 1, 0), queued=True)
    folder.open(config)
    row = folder.clock.read()[-1]
    assert row["job"] == "12_3" and row["submitted"] == json.loads((folder.path / "job.json").read_bytes())["time"]


@pytest.mark.parametrize("jump", [-(10**8), 10**8])
def test_a_clock_that_is_set_moves_nothing_but_the_queue(run: RunFolder, jump: float) -> None:
    start(run, 1, 0, 20, job="7", submitted=1e9)
    ended(run, 2, start(run, 2, 20, 32, at=1e9 + jump, job="7"))
    found = seconds(run)
    assert (found.pop("queue", 0) == 0) == (jump < 0)
    shutil.move(run.clock.path, run.clock.path.with_name("set"))
    start(run, 1, 0, 20)
    ended(run, 2, start(run, 2, 20, 32))
    assert found == seconds(run)


def test_a_start_without_a_step_lasted_to_its_last_sign_of_life(run: RunFolder) -> None:
    def begin(number: int, heard: dict[str, Any] | None) -> None:
        own = {"start": number, "world": 2, "time": 1e9, "seconds": 3.0, "monotonic": 1.0, "pid": number}
        run.clock.append({**own, "host": "here", "job": None, "heard": heard, **run.mark()})

    begin(1, None)
    begin(2, {"pid": 1, "host": "here", "time": 1e9 + 40})
    begin(3, {"pid": 99, "host": "here", "time": 1e9 + 40})  # of another process: it says nothing of the second
    begin(4, {"pid": 3, "host": "here", "time": 1e9 + 10**7})  # a clock that was set
    begin(5, {"pid": 4, "host": "here", "time": 1e9 - 50})
    assert seconds(run) == {"start": 2 * (43 + 3 + LONGEST + 3 + 3)} and account(run).starts == 5


def test_of_a_start_that_lives_its_lock_tells(run: RunFolder) -> None:
    with run.lock():
        run.open(Config(), {}, {"world": 2}, began=time.monotonic() - 50)
        os.utime(next(run.path.glob("lock.*")), (time.time() + 10,) * 2)
        found = account(run)
        assert found.spent["start"] == pytest.approx(2 * 60, abs=5) and found.starts == 1


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "garbage": lambda lines: [b"\xff\xfe", b"[]", *lines, b'{"start": 1, "seconds": NaN, "world": 1, "time": 1}'],
    "half a line": lambda lines: [*lines, lines[-1][:40]],
    "a cut line": lambda lines: [*lines[:3], lines[3][:40], *lines[4:]],
    "a sum that is too high": lambda lines: [*lines[:3], lines[3].replace(b'"step": ', b'"step": 9'), *lines[4:]],
    "a time that is too long": lambda lines: [
        *lines[:3],
        lines[3].replace(b'"seconds": ', b'"seconds": 9'),
        *lines[4:],
    ],
    "other ranks": lambda lines: [lines[0].replace(b'"world": 1', b'"world": 11'), *lines[1:]],
    "a folder that is no path": lambda lines: [lines[0].replace(b'"folder": ', b'"folder": 5, "was": '), *lines[1:]],
    "a part that is no number": lambda lines: [*lines[:3], lines[3].replace(b'"data": ', b'"data": "x", "x": ')],
    "below zero": lambda lines: [*lines, lines[-1].replace(b'"seconds": ', b'"seconds": -')],
    "without its first row": lambda lines: lines[1:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_lines_cost_no_more_than_their_own_time(run: RunFolder, damage: str) -> None:
    ended(run, 1, start(run, 1, 0, 20))
    whole, lines = seconds(run), run.clock.path.read_bytes().splitlines()
    run.clock.path.write_bytes(b"\n".join(DAMAGE[damage](lines)))
    if damage == "a part that is no number":  # and nothing comes after it
        assert account(run).spent["good"] == (8 - WARM_UP) * (STEP - WAIT) + WARM_UP * STEP
    else:
        run.clock.path.open("ab").write(b"\n")
        assert seconds(run) == whole


def test_where_no_time_is_known_there_are_no_shares(run: RunFolder) -> None:
    found = account(run)
    assert found.row() == {"gpu_hours": 0.0, "good": None, **{f"bad.{cause}": None for cause in CAUSES}}
    assert str(found) == "no time is accounted for" and set(steps(run).values()) == {None}


def test_a_copy_has_its_own_starts_alone(run: RunFolder, tmp_path: Path) -> None:
    ended(run, 1, start(run, 1, 0, 20))
    shutil.copytree(run.path, tmp_path / "copy")
    copy = RunFolder(tmp_path / "copy")
    assert account(copy).starts == 0
    start(copy, 2, 12, 20)  # which the original has done, and the copy has not
    assert account(copy).starts == 1 and account(copy).again == 0 and account(run).again == 0
    run.path.rename(tmp_path / "moved")
    assert account(RunFolder(tmp_path / "moved")).starts == 1


def test_quartiles_of_a_step_are_without_the_first_of_each_start(run: RunFolder) -> None:
    start(run, 1, 0, 20)
    start(run, 2, 20, 23)  # nothing but a warm-up
    assert steps(run) == {
        **dict.fromkeys(("seconds_step", "seconds_step_low", "seconds_step_high"), STEP),
        **{"seconds.data": WAIT, "seconds.compute": STEP - WAIT},
    }
    rows = [json.loads(line) for line in run.clock.path.read_text().splitlines()]
    slow = {"start": 3, "world": 1, "time": 1.0, **dict.fromkeys(PARTS, 0.0)}
    for done, train in ((3, 0.0), (4, 9.0), (14, 49.0)):  # a step of 9 s, ten of 4
        rows.append(slow | {"step": 23 + done, "steps": done, "train": train, "seconds": 100.0 + done})
    run.clock.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = steps(run)
    assert (found["seconds_step_low"], found["seconds_step"], found["seconds_step_high"]) == (STEP, STEP, 4.0)
