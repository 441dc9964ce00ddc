"""SIGKILL of one rank at fifty moments around a save: the other ends by itself, every checkpoint that can be seen is
whole, the newest is no older than before, and the run goes on from it to the bits of one that was never killed."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import Ranks
from same_run import assert_equal

from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.run import checkpoint

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data: {dataset: digits, root: SHARDS, augment: {crop_padding: 1, flip: 0.5}, mixup: 0.2}
train: {epochs: 1, global_batch: 16, lr: 0.003, ema_decay: 0.9, threads: 1}
engine: {zero_stage: 2}
checkpoint: {every_steps: 1, keep: 2}
log: {curves: false, every_steps: 1}
"""
TOTAL = 89
UNSAVED = "checkpoint.every_steps=1000"
MOMENTS = 50
BOUND = 60.0
"""Seconds in which the other rank must have ended; `engine.timeout_minutes` is half of it."""
PHASES = {"step": 0.3, "gather": 0.004, "write": 0.03, "rename": 0.01}
"""Of a save after every step, with the most seconds into it that a kill waits: a step is computed and nothing saved;
rank 0 has its row and gathers; its thread writes the hidden folder; that has its manifest, is synced and renamed, and
an older one is removed."""

AIMS = ("step", *("gather", "write", "rename") * 2)  # the short ones twice: some kills come too late for them


class Pair(Ranks):
    """Two ranks, and where their save is."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, 2)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not holds():
            codes = [process.exitcode for process in self.all]
            assert codes == [None, None] and time.monotonic() < deadline, codes
            time.sleep(0.0005)

    def running(self) -> bool:
        """Rows and checkpoints are from now on its own."""
        return self.folder.status().get("pid") == self.all[0].pid

    def phase(self) -> str:
        """Where the save is, by what the folder holds."""
        for hidden in self.folder.checkpoints.glob(".step-*.tmp"):
            try:
                if hidden.stat().st_mtime > self.begun:  # else an earlier start has left it
                    written = (hidden / checkpoint.MANIFEST).exists() or hidden.name.endswith(".old.tmp")
                    return "rename" if written else "write"
            except FileNotFoundError:
                continue
        rows = self.folder.metrics.read()
        return "gather" if rows and rows[-1]["step"] > (self.folder.saved_step() or 0) else "step"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """The recipe with a folder of runs and other settings."""
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(tmp_path / "shards")))
    return lambda runs, *words: load(tmp_path / "recipe.yaml", [f"runs_dir={tmp_path / runs}", *words])


@pytest.mark.timeout(900)
def test_one_rank_killed_at_fifty_moments_around_a_save(tmp_path: Path, config: Callable[..., Config]) -> None:
    with Pair(config("whole", UNSAVED)) as ranks:
        assert ranks.end(240) == [0, 0]
    moments, newest, kept = random.Random(0), 0, 0
    found: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(MOMENTS):
        victim, aim, more = moments.randrange(2), moments.choice(AIMS), moments.randrange(2)
        with Pair(config("killed", f"engine.timeout_minutes={BOUND / 2 / 60}")) as ranks:
            ranks.until(ranks.running)
            assert ranks.folder.status()["started_at"] == newest
            ranks.until(lambda r=ranks, step=newest + more: (r.folder.saved_step() or 0) >= step)
            ranks.until(lambda r=ranks, aim=aim: r.phase() == aim)
            time.sleep(moments.uniform(0, PHASES[aim]))
            ranks.all[victim].kill()
            killed = time.monotonic()
            found[f"rank {victim}: {ranks.phase()}"] += 1
            codes = ranks.end(BOUND)
            slowest = max(slowest, time.monotonic() - killed)
            assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
        complete = checkpoint.complete(ranks.folder.checkpoints)
        assert [checkpoint.verify(path) for path in complete] == [None] * len(complete)
        now = checkpoint.step_of(complete[0]) if complete else 0
        assert now >= newest and len(complete) >= min(kept, 2)
        newest, kept = now, len(complete)
    print(dict(sorted(found.items())), f"the other rank ended within {slowest:.1f} s", f"step {newest} of {TOTAL}")
    assert 0 < newest < TOTAL
    for rank in range(2):
        assert all(found[f"rank {rank}: {phase}"] for phase in PHASES), found
    assert sum(n for key, n in found.items() if key.endswith(("write", "rename"))) >= MOMENTS / 4, found
    with Pair(config("killed", UNSAVED)) as ranks:
        assert ranks.end(240) == [0, 0]
    assert_equal(tmp_path / "whole", tmp_path / "killed")
