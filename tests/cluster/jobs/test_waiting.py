"""What a command waits for is said at once, and in no output that is a result."""

from __future__ import annotations

import io
import sys

import pytest

from cluster.jobs.waiting import waits, waits_here


def test_a_start_says_it_where_it_says_all_else(capsys: pytest.CaptureFixture[str]) -> None:
    waits("loading PyTorch")
    assert tuple(capsys.readouterr()) == ("... loading PyTorch\n", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_other_commands_say_it_to_who_sits_at_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    waits_here("reading the study")
    assert stream.getvalue() == "... reading the study\n" * terminal
