"""What a plan goes by on a CPU: operators that are timed alone, and steps to be compared with them."""

from __future__ import annotations

import gc
import os
from functools import partial
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
    from cluster.jobs.alone import MOST, _timed, alone
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
    (none, tested), (unit, again), _ = counted
    network = calibration._exchange(setup)
    assert (network.alpha, network.beta) == (0, 0)  # there is no other rank
    for timed in calibration._planned(setup, 0, Path(folder, "narrow"), torch.device("cpu"), network):
        assert timed.parts.keys() == {*PARTS, "host"} and all(seconds > 0 for seconds in timed.parts.values()), timed
        assert timed.end > 0 and timed.tested > timed.parts["host"] * tested / (2 * none)
    images = calibration._read(setup, torch.device("cpu"))
    assert images is not None and images > 0
    assert tested == again < none < unit  # evaluation computes nothing again
    called: list[int] = []
    clocks = _timed([partial(called.append, number) for number in range(3)])
    assert called == [0, 1, 2] + [0, 0, 1, 1, 2, 2] * MOST  # in turns, twice in each
    collects: list[bool] = []
    _timed([lambda: collects.append(gc.isenabled())])
    assert not any(collects[1:]) and gc.isenabled()  # the first call is not timed
    assert len(clocks) == 3 and all(tuple(one.shape) == (2,) for one in clocks)
    os._exit(0)


def test_the_steps_of_a_run_and_their_operators(tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards")
    apart(real_steps, str(tmp_path))


def hidden(folder: str) -> None:
    """Ends well where a GPU is hidden when its ranks meet."""
    from cluster.jobs import calibration
    from cluster.train import engine

    def meet(*_: object, **__: object) -> torch.device:
        os._exit(os.environ.get("CUDA_VISIBLE_DEVICES") != "")

    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    engine.init_distributed = meet
    case = configs.load(configs.recipe("digits"))
    calibration._rank(0, 1, folder, calibration.Asked([case], None, steps=False, memory=False))


def test_a_processor_s_steps_are_timed_where_there_is_a_gpu_too(tmp_path: Path) -> None:
    apart(hidden, str(tmp_path))


def test_neighbours_fill_a_cache() -> None:
    from cluster.jobs.alone import CACHE, Timing, _neighbours

    def sizes(*shares: float) -> list[list[float]]:
        timings = [Timing(int(share * CACHE), lambda: list) for share in shares]
        return [[one.bytes / CACHE for one in some] for some in _neighbours(timings)]

    assert sizes(0.5, 0.25, 0.25, 0.5, 0.5, 2) == [[0.5, 0.25, 0.25], [0.5, 0.5], [2]]
    assert sizes(0.5, 0.5, 1, 0.25, 0.5) == [[0.5, 0.5], [1, 0.25, 0.5]]  # the last ones are too few
    assert sizes(0.25, 0.5) == [[0.25, 0.5]]
