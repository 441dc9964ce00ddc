"""What a plan goes by on a CPU: operators that are timed alone, and steps to be compared with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import apart

from cluster import config as configs
from cluster.build.memory import GIB, here
from cluster.build.shards import write_shards
from cluster.config.shape import Shape
from cluster.plan.absent import setup_of
from cluster.plan.predict import predict
from cluster.plan.rates import PARTS


def real_steps(folder: str) -> None:
    """What steps of training hold at their peak, and what is planned; and their operators, one by one."""
    from cluster.jobs import calibration
    from cluster.jobs.alone import alone
    from cluster.train import engine

    torch.set_num_threads(1)
    engine.init_distributed(0, 1, dist.HashStore(), wanted="cpu")
    counted = []
    for number, words in enumerate((["recompute.policy=none"], ["recompute.policy=unit"], ["train.micro_batch=16"])):
        config = configs.load(configs.recipe("digits"), [*words, f"data.root={folder}/shards", "train.norm_batch=16"])
        setup = setup_of(config, 1)
        taken = calibration._taken(setup, 0, Path(folder, str(number)), torch.device("cpu"), True)
        plan = predict(setup_of(config, 1), Shape(1, 1, 0), None)
        assert plan.memory["total"].value == pytest.approx(taken.peak / GIB, rel=0.05), words
        assert taken.cores > 0 and taken.seconds > 0
        found = alone(setup, here(config, 1))
        assert tuple(found.training) == PARTS and all((seconds > 0).all() for seconds in found.training.values()), found
        assert (found.evaluation > 0).all() and (found.end > 0).all()
        counted.append(found.operators)
    images = calibration._read(setup, torch.device("cpu"))
    assert images is not None and images > 0
    (none, tested), (unit, again), _ = counted
    assert tested == again < none < unit  # evaluation computes nothing again
    os._exit(0)


def test_the_steps_of_a_run_and_their_operators(tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards")
    apart(real_steps, str(tmp_path))
