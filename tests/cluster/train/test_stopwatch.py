"""Seconds of a rank's own work."""

from __future__ import annotations

import time

import torch

from cluster.train.stopwatch import Stopwatch


def test_it_adds_up_its_blocks_and_begins_anew_when_it_is_read() -> None:
    watch = Stopwatch(torch.device("cpu"))
    begun = time.perf_counter()
    for _ in range(2):
        with watch:
            time.sleep(0.02)
        time.sleep(0.05)
    whole = time.perf_counter() - begun
    assert 0.04 <= watch.read() <= whole - 0.1
    assert watch.read() == 0
