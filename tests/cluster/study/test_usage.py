"""What a start has cost: until it ended, or, where it was cut off, as long after its last count as it might have."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path

from cluster.study.usage import Use, Uses, budget, device_seconds, reached

USE = Use(world=4, host=socket.gethostname(), pid=os.getpid(), began=100.0, last=110.0, beat=2.0, ended=True)


def test_a_start_that_was_cut_off_may_have_lived_a_beat_longer() -> None:
    assert USE.seconds == 40 and replace(USE, ended=False).seconds == 48
    assert not USE.live and replace(USE, ended=False).live
    assert not replace(USE, ended=False, pid=2**30).live
    elsewhere = replace(USE, ended=False, host="elsewhere", last=time.time())
    assert elsewhere.live and not replace(elsewhere, last=time.time() - 21).live


def test_one_that_lives_counts_until_now() -> None:
    assert USE.until(200.0) == 40 and replace(USE, ended=False).until(200.0) == 400


def test_a_file_that_is_damaged_or_half_there_counts_as_it_last_was(tmp_path: Path) -> None:
    (tmp_path / "usage").mkdir()
    file, uses = tmp_path / "usage" / "1.json", Uses()
    file.write_text(json.dumps(asdict(replace(USE, ended=False))))
    assert [use.seconds for use in uses.of(tmp_path)] == [48]
    file.write_text('{"world": 4')
    assert [use.seconds for use in uses.of(tmp_path)] == [48] and device_seconds(tmp_path) == 0
    file.write_text(json.dumps(asdict(USE)))
    assert [use.seconds for use in uses.of(tmp_path)] == [40]


def test_a_budget_is_reached_until_it_is_raised(tmp_path: Path) -> None:
    assert budget(tmp_path) is None and not reached(tmp_path, 10.0)
    (tmp_path / "budget.json").write_text('{"budget_gpu_hours": 0.5}')
    assert budget(tmp_path) == 1800
    (tmp_path / "reached.json").write_text('{"budget": 1800}')
    assert reached(tmp_path, 1800.0) and not reached(tmp_path, 1801.0) and not reached(tmp_path, None)
