"""Failures that a study asks for: the processes of a cell are killed, and it goes on as after any other failure.

What fails does not age: from the beginning of a start to its failure it is a time of the exponential law, drawn by the
seed, the cell's axes and how many starts it has had. failures.jsonl has a row for each: the time, the start's first
process, and the one that was killed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from ..plan.interval import between, daly, every, lost
from ..run.goodput import Goodput
from .folder import CellFolder


def drawn(seed: int, axes: Mapping[str, object], start: int, mean: float) -> tuple[float, np.random.Generator]:
    """Seconds to the failure of a cell's start, whose number counts from 1; and what else is drawn of it."""
    digest = hashlib.sha256(json.dumps(dict(axes), sort_keys=True).encode()).digest()
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, start, *digest))))
    return float(-mean * np.log1p(-rng.random())), rng


@contextmanager
def injected(cell: CellFolder, began: float) -> Iterator[None]:
    """Kill this start of a cell when its time has come, if the block lasts so long. began: `time.monotonic()` when it
    did. Does nothing in a study without failures."""
    facts = cell.facts
    asked = None if facts is None else facts.get("failures")
    if facts is None or asked is None:
        yield
        return
    start = len([*cell.path.glob("usage/[!.]*.json")])
    mean = between(cell.shape, asked["mtbf_hours"])
    after, rng = drawn(asked["seed"], facts["axes"], start, mean)

    def kill() -> None:
        ranks = sorted(child.pid for child in multiprocessing.active_children() if child.pid is not None)
        one = asked["kills"] == "one" and ranks
        victim = ranks[rng.integers(len(ranks))] if one else os.getpid()  # with us the kernel ends the ranks
        cell.failures.append({"time": time.time(), "pid": os.getpid(), "killed": victim})
        os.kill(victim, signal.SIGKILL)

    timer = threading.Timer(max(0.0, began + after - time.monotonic()), kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def columns(cell: CellFolder, found: Goodput, step: float | None) -> dict[str, float | int]:
    """Of a row: what failures did, and what `tdformer plan --mtbf` would say with the cell's own seconds of a step, a
    save, a start and evaluations, where it assumes some, and with the first start. step: its seconds."""
    facts = cell.facts
    asked = None if facts is None else facts.get("failures")
    if facts is None or asked is None:
        return {}
    told: dict[str, float | int] = {"failures": len(cell.failures.whole()[0]), "again": found.again}
    spent = {cause: seconds / cell.shape.world for cause, seconds in found.spent.items()}
    trained = spent.get("good", 0.0) + spent.get("recomputed", 0.0)
    if not step or not trained:
        return told
    config = cell.run.stored(cell.run.launch_file)
    mean, restart = between(cell.shape, asked["mtbf_hours"]), spent["start"] / found.starts
    apart = every(config, step, facts["steps"] // config.train.epochs)
    stall = spent["checkpoint"] * apart / trained
    good = spent["good"]
    once = good * (1 + stall / apart) + restart + spent["data"] + spent["evaluation"] + spent["other"]
    failed = 3600 * found.device_hours / cell.shape.world / mean
    return told | {
        "predicted.good": round(good / once * (1 - lost(apart, 0.0, mean, restart)), 6),
        "predicted.failures": round(failed, 3),
        "predicted.again": round(failed * apart / step / 2, 1),
        "predicted.best_every": round(daly(stall, mean) / step, 1),
    }
