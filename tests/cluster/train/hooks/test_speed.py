"""speed.jsonl, and the speed of a run with several starts."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import Config
from cluster.run.folder import RunFolder
from cluster.run.monitor import Monitor
from cluster.train.hooks.speed import Speed
from cluster.train.step import Step


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.open(Config())
    return folder


def steps(run: RunFolder, first: int, last: int, every: int = 2) -> dict[str, Any]:
    """Steps that began 0.5 s ago each, of which 0.1 s was a wait; the summary at their end."""
    speed = Speed(Config())
    monitor = Monitor(run, Config(), 8, line_seconds=1000.0)
    speed.begin(SimpleNamespace(rank=0, folder=run, monitor=monitor, recompute=None), [])  # type: ignore[arg-type]
    for number in range(first, last + 1):
        step = Step(number, 0, 0.1, number % every == 0, images=128, begun=time.perf_counter() - 0.5, waited=0.1)
        speed.step(step)
        if step.logs:
            speed.logged(step)
    summary: dict[str, Any] = {}
    speed.end(summary)
    speed.end(None)  # as of a run that failed
    return summary


def test_rows_are_of_the_steps_since_the_last_one(run: RunFolder) -> None:
    steps(run, 1, 5)
    rows = run.speed.read()
    keys = ["step", "images", "seconds", "images_per_second", "data_wait_seconds", "peak_gib"]
    assert [list(row) for row in rows] == [keys] * 2
    assert [(row["step"], row["images"], row["data_wait_seconds"]) for row in rows] == [(2, 256, 0.2), (4, 256, 0.2)]
    assert all(row["seconds"] >= 1.0 and row["images_per_second"] <= 256 for row in rows)


def test_the_summary_is_of_all_starts(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    steps(run, 1, 4)
    with run.speed.path.open("a") as file:
        file.write("damaged\n")
    summary = steps(run, 5, 7)  # the last one is in no row
    assert summary["train_seconds"] >= 3.5 and summary["images_per_second"] <= 7 * 128 / 3.5
    assert summary["images_per_second"] == pytest.approx(7 * 128 / summary["train_seconds"], rel=1e-3)
    assert "speed.jsonl has 1 damaged lines, which are left out" in capsys.readouterr().out
