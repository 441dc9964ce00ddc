"""What is shown of a run: lines now and then, or a bar."""

from __future__ import annotations

import io
import os
import re

from rich.console import Console

from cluster.run.console import Display, peak_memory


def test_a_line_now_and_then_and_the_last() -> None:
    console = Console(file=io.StringIO(), width=40)
    display = Display(3, 0, console, line_seconds=1000.0)
    for step in (1, 2, 3):
        display.show(step, "epoch 1/1", ["loss 0.5"], ["9 images/s"], "")
    display.say("a [bold] word that is longer than the terminal is wide")
    display.close()
    assert console.file.getvalue().splitlines() == [
        "step 3/3, epoch 1/1, loss 0.5, 9 images/s",
        "a [bold] word that is longer than the terminal is wide",
    ]


def test_on_a_terminal_a_bar_that_is_closed_once() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    display = Display(4, 1, console)
    display.show(4, "epoch 1/1", ["loss 0.5"], ["9 images/s"], "0 s left")
    display.close()
    display.close()
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())
    lines = [line.rstrip() for line in re.split("[\r\n]+", shown)]
    assert any(re.fullmatch("epoch 1/1 step 4/4 ━+ 0 s left", line) for line in lines)
    assert "loss 0.5" in lines and "9 images/s" in lines


def test_memory_is_that_of_this_process() -> None:
    held, gpu = peak_memory()
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    assert not gpu and 0.01 < held < installed
