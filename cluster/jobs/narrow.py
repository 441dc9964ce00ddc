"""A network of the structure of a run's with little to compute: what is around its operators is what is around the
run's."""

from __future__ import annotations

from dataclasses import replace

from tdformer.errors import ModelError

from ..build.model import outline
from ..build.planner import Recompute
from ..build.setup import Setup
from ..config import Config
from ..config.schema import ModelConfig

IMAGES = 32
"""Of a norm batch in one process, at most."""


def narrow(setup: Setup, chosen: Recompute) -> Config:
    """The run's configuration, as narrow as its family can be, with few images: its operators are as many, and so are
    the calls of Python between them, the messages between ranks and the micro-batches of a step. chosen: what is
    computed again. Nothing is logged, and weights hardly move."""
    config, plan = setup.config, setup.plan
    groups = max(1, plan.micro_batch // plan.norm_batch)
    each = min(plan.micro_batch // groups, IMAGES)
    micro = groups * each
    train = replace(
        config.train,
        global_batch=micro * plan.accumulation * plan.world,
        micro_batch=micro,
        norm_batch=each * plan.norm_ranks,
        lr=1e-9,
        min_lr=0.0,
        hooks=[],
    )
    return replace(
        config,
        model=_narrow(setup),
        train=train,
        recompute=replace(config.recompute, policy=chosen.policy, borders=chosen.borders),
        log=replace(config.log, wandb="off", tensorboard=False, profile_steps=[]),
    )


def _narrow(setup: Setup) -> ModelConfig:
    """With first weights of its own; of a family without widths as wide as it is."""
    model = replace(setup.config.model, weights=None, weights_sha256=None)
    for width in range(1, setup.outline.config["width"] or 1):
        found = replace(model, width=width)
        try:
            outline(replace(setup.config, model=found), setup.samples)
        except ModelError:
            continue
        return found
    return model
