"""The narrow network that tells what is around a run's operators: as many of them, of the same structure."""

from __future__ import annotations

import pytest
import torch

from cluster import config as configs
from cluster.build.planner import Recompute, counted
from cluster.build.setup import Setup
from cluster.config import BatchPlan
from cluster.jobs.narrow import IMAGES, narrow
from cluster.plan.absent import setup_of
from tdformer.kernels import stands_for
from tdformer.measure import Calls


def operators(setup: Setup, chosen: Recompute) -> int:
    found = Calls()
    with torch.device("meta"), stands_for("cpu"):
        counted(setup.outline, setup.config, setup.plan, chosen.policy, chosen.borders, found)
    return found.count


WORDS = (
    ("recompute.policy=none", "train.norm_batch=32"),
    ("recompute.policy=unit", "model.segments=4", "recompute.borders=2", "train.micro_batch=8", "train.norm_batch=4"),
    ("recompute.policy=block", "model.name=sdt_2_256", "data.dataset=cifar10", "train.clip_grad=1"),
)


@pytest.mark.parametrize("words", WORDS)
def test_it_has_as_many_operators(words: tuple[str, ...]) -> None:
    """But for the few that a narrow width does without."""
    setup = setup_of(configs.load(configs.recipe("digits"), words), 1)
    recompute = setup.config.recompute
    chosen = Recompute(recompute.policy, recompute.borders, 0)
    small = Setup(narrow(setup, chosen), 1, setup.samples, setup.test)
    assert operators(small, chosen) == pytest.approx(operators(setup, chosen), rel=0.01)
    of = [sum(p.numel() for p in one.outline.parameters()) for one in (small, setup)]
    assert of[0] < of[1] / 10 and small.outline.config["width"] < setup.outline.config["width"]


def split_of(world: int, *words: str) -> tuple[BatchPlan, BatchPlan]:
    """The run's, and the narrow one's."""
    setup = setup_of(configs.load(configs.recipe("digits"), words), world)
    return setup.plan, Setup(narrow(setup, Recompute("none", 1, 0)), world, setup.samples, setup.test).plan


def test_a_batch_is_split_alike() -> None:
    """Micro-batches of a step, norm batches of a micro-batch, and the ranks of one."""
    words = ("train.global_batch=768", "train.micro_batch=192", "train.norm_batch=96")
    plan, small = split_of(2, *words)
    assert (small.accumulation, small.norm_ranks, small.world) == (plan.accumulation, plan.norm_ranks, 2) == (2, 1, 2)
    assert small.norm_batch == IMAGES and small.micro_batch // small.norm_batch == 2
    plan, small = split_of(4, "train.global_batch=768", "train.micro_batch=192", "train.norm_batch=768")
    assert small.norm_ranks == plan.norm_ranks == 4 and small.norm_batch == 4 * small.micro_batch == 4 * IMAGES
    plan, small = split_of(1, "train.global_batch=6", "train.micro_batch=3", "train.norm_batch=3")
    assert small == plan  # so few as they are


def test_nothing_goes_out_and_nothing_comes_in() -> None:
    words = ["model.weights=runs/first", "log.wandb=online", "log.tensorboard=true", "train.hooks=[energy]"]
    setup = setup_of(configs.load(configs.recipe("digits"), [*words, "recompute.policy=auto"]), 1)
    small = narrow(setup, Recompute("unit", 2, 0))
    assert small.model.weights is None and not small.log.to_wandb and not small.log.tensorboard
    assert not small.train.hooks and (small.recompute.policy, small.recompute.borders) == ("unit", 2)
    assert small.model.width == 16  # of four heads, and a stem of a quarter
    assert setup.config.model.weights == "runs/first" and setup.config.model.width is None
