"""Optimizers by name: the same steps at every ZeRO stage, on as many ranks as there are, and on from a checkpoint."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from forked import together
from torch import Tensor

import tdformer
from cluster.build.optimizers import OPTIMIZERS, Optimizer
from cluster.config import BatchPlan, load
from cluster.errors import RunError
from tdformer.measure import live_bytes

NAMES = ("lamb", "sgd")
"""AdamW does so in test_resume and test_elastic."""
WORLD, STEPS, BROKEN = 2, 3, 1
"""Ranks; steps of each run; the one whose gradient is not finite."""


def begun(name: str, stage: int, state: tuple[dict[str, Tensor], dict[str, Tensor], int] | None) -> Any:
    from cluster.train import engine

    torch.manual_seed(0)
    model = tdformer.create_model("quickstart", time_steps=1, image_size=16)
    if state is not None:
        model.load_state_dict(state[0])
    words = [f"engine.zero_stage={stage}", f"train.global_batch={2 * WORLD}", f"train.optimizer={name}"]
    config = load(None, [*words, "train.layer_decay=0.5", "train.clip_grad=0.5"])
    running = engine.start(model, config, BatchPlan(2 * WORLD, WORLD, 2, 1, 2, 1))
    if state is not None:
        engine.restore_moments(running, *state[1:])
    return running


def taken(running: Any, steps: range, rank: int) -> None:
    from cluster.train import engine

    for step in steps:
        torch.manual_seed(10 * step + rank)
        images = torch.rand(2, 1, 16, 16, requires_grad=True)
        loss = tdformer.segment_loss(running(images), torch.eye(10)[torch.randint(10, (2,))])
        engine.set_lr(running, 0.05)
        running.backward(loss * (float("nan") if step == BROKEN else 1))
        outcome = engine.update(running, 0.5)
        assert outcome is not None and outcome.applied == (step != BROKEN)


def ranks(rank: int, folder: str) -> None:
    from cluster.train import engine

    torch.set_num_threads(1)
    engine.init_distributed(rank, WORLD, dist.FileStore(f"{folder}/meet", WORLD))
    first = rank == 0
    for name, stage in product(NAMES, range(4)):
        whole = begun(name, stage, None)
        taken(whole, range(BROKEN + 1), rank)
        kept = [engine.weights(whole, first), engine.moments(whole, first)]
        taken(whole, range(BROKEN + 1, STEPS), rank)
        found = engine.weights(whole, first), engine.moments(whole, first)
        dist.broadcast_object_list(kept)  # what the first rank has gathered
        again = begun(name, stage, (*kept, BROKEN))  # steps that were taken
        taken(again, range(BROKEN + 1, STEPS), rank)
        resumed = engine.weights(again, first), engine.moments(again, first)
        if first:
            torch.save((found, resumed), f"{folder}/{name}-{stage}.pt")
    dist.barrier()
    os._exit(0)


@pytest.mark.timeout(600)  # 16 engines
def test_every_stage_takes_the_same_steps_and_goes_on_with_them(tmp_path: Path) -> None:
    """To rounding over the stages, where ZeRO gives flat shares of many parameters to the optimizer; to the bit after a
    checkpoint, also past a step that was left out."""
    together(ranks, WORLD, str(tmp_path))
    torch.manual_seed(0)
    start = tdformer.create_model("quickstart", time_steps=1, image_size=16).state_dict()
    for name in NAMES:
        expected, _ = torch.load(tmp_path / f"{name}-0.pt")
        assert {key.split(".")[0] for key in expected[1]} == set(OPTIMIZERS.get(name).states)
        assert sum(bool(value.any()) for value in expected[1].values()) > 0.8 * len(expected[1])
        for stage in range(4):
            found, resumed = torch.load(tmp_path / f"{name}-{stage}.pt")
            for own, after, reference in zip(found, resumed, expected, strict=True):
                assert own.keys() == after.keys() == reference.keys()
                for key, value in own.items():
                    assert torch.equal(value, after[key]), (name, stage, key)
            (weights, moments), (reference, kept) = found, expected
            for key, value in weights.items():
                if value.dim() > 1 and "running" not in key:
                    moved = (reference[key] - start[key]).norm()
                    # An element whose gradient is rounding alone has steps that are, since sqrt(v) divides them.
                    root = kept.get(f"exp_avg_sq.{key}", torch.ones_like(value)).sqrt()
                    told = root >= 1e-4 * root.max()  # all of one whose gradient is zero: it decays alike
                    assert moved > 0 and told.any(), (name, stage, key)
                    assert (value - reference[key])[told].norm() < 1e-4 * moved, (name, stage, key)
            for key, value in moments.items():
                torch.testing.assert_close(value, kept[key], rtol=1e-3, atol=1e-6, msg=f"{name} {stage} {key}")


def test_an_optimizer_is_known_by_its_name() -> None:
    with pytest.raises(RunError, match="train.optimizer is adam; choose adamw, lamb or sgd; did you mean adamw?"):
        load(None, ["train.optimizer=adam"])
    OPTIMIZERS.register("mine", Optimizer(OPTIMIZERS.get("sgd").make, ("momentum_buffer",)))
    assert load(None, ["train.optimizer=mine"]).train.optimizer == "mine"
    del OPTIMIZERS._entries["mine"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_step_works_with_is_what_it_makes(name: str) -> None:
    """With decay of weights, for one parameter."""
    config = load(None, [f"train.optimizer={name}"])
    weight = torch.nn.Parameter(torch.randn(1000))
    weight.grad = torch.randn(1000)
    optimizer = OPTIMIZERS.get(name).make(
        [{"params": [weight], "weight_decay": 0.1, "lr_scale": 1.0, "lr": 0.1}], config.train
    )
    optimizer.step()
    states = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    with live_bytes(torch.nn.Identity(), [weight, weight.grad, *states]) as live:
        optimizer.step()
    assert round(live.peak / weight.nbytes, 1) == OPTIMIZERS.get(name).working
