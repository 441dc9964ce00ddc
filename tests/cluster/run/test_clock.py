"""When a process began, and how a start's clock goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cluster.config import Config
from cluster.run import clock
from cluster.run.clock import Clock, process_began
from cluster.run.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_a_process_knows_when_it_began() -> None:
    before = time.monotonic()
    child = os.fork()
    if not child:
        os._exit(not before - 0.5 < process_began() <= time.monotonic())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert process_began() < before


def test_another_process_of_a_start_goes_on_with_its_clock(run: RunFolder) -> None:
    assert Clock.of(run.clock) is None
    run.open(Config(), {}, {"world": 2})
    mine = run.open(Config(), {}, {"world": 4}, began=time.monotonic() - 100)
    mine.tell(step=3)
    found = Clock.of(run.clock)
    assert found is not None and (found.start, found.world, found.began) == (2, 4, mine.began)
    assert 100 <= found.seconds() < 160 and clock.EVERY > 0
    assert [row["start"] for row in run.starts.read()] == [1, 2]
