"""A line now and then about work that takes long, on standard error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.run import progress


def test_what_was_there_before_counts_for_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 101.0, 120.0, 130.0, 131.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    tell = progress.progress("train", "samples")
    for done in (1000, 1100, 1200, 1210):
        tell(done, 2200)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "train: 1,100 of 2,200 samples, 3 min 40 s left",
        "train: 1,200 of 2,200 samples, 2 min 30 s left",
    ]
