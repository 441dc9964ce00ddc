"""The choice of a recomputation policy for a given memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tdformer
from cluster import planner
from cluster.config import BatchPlan, load
from cluster.errors import RunError
from cluster.prepare import write_shards

GIB = 2**30


def choose(memory: float, *words: str) -> planner.Recompute:
    config = load(None, ["recompute.policy=auto", f"recompute.memory={memory}", *words])
    with torch.device("meta"):
        model = tdformer.create_model("hst_4_384", segments=4, feedback="all")
        return planner.choose(model, config, BatchPlan(32, 1, 32, 1, 32, 1))


def test_the_cheapest_that_fits_is_taken() -> None:
    plenty = choose(1000)
    assert (plenty.policy, plenty.borders) == ("none", 1)
    less = choose(plenty.total / GIB)  # a tenth stays free
    assert (less.policy, less.borders) == ("unit", 1)
    assert less.cost.flops > plenty.cost.flops and less.total < plenty.total
    least = choose(less.total / GIB)
    assert least.policy == "unit" and least.borders > 1
    assert least.cost.flops > less.cost.flops and least.total < less.total
    with pytest.raises(RunError, match="a micro-batch of 32 needs .* GiB a process with recompute.policy=unit"):
        choose(0.1)


def test_zero_stages_shard_the_training_state() -> None:
    model = tdformer.create_model("quickstart")
    count = sum(p.numel() for p in model.parameters())

    def each(*words: str, world: int = 4, accumulation: int = 1) -> float:
        micro = 64 // world // accumulation
        plan = BatchPlan(64, world, micro, accumulation, micro, 1)
        return planner.state_bytes(model, load(None, words), plan) / count

    assert [each(f"engine.zero_stage={stage}") for stage in range(4)] == [16, 11, 8, 5]
    assert each("train.ema_decay=0.9", world=1) == 20
    model.segments = 2  # autograd sums a weight's gradient over the segments beside the one that is there
    assert [each(f"engine.zero_stage={stage}") for stage in range(4)] == [16, 11, 12, 9]
    assert each(world=1, accumulation=2) == 20


def test_what_cannot_fit_is_refused_before_a_run_folder_is_made(cli: Any, tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text("name: run\ndata: {dataset: digits, root: shards}\n")
    words = ("recipe.yaml", "recompute.policy=auto")
    done = cli("train", *words, "recompute.memory=0.001")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a micro-batch of 128 needs ") and "lower train.micro_batch" in line
    assert not (tmp_path / "runs").exists()
    done = cli("train", *words, "recompute.memory=8", "train.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "recompute none: " in done.stdout
