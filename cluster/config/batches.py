"""How a global batch is split over processes, micro-batches and BatchNorm's groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..errors import RunError
from .check import check, check_registered
from .precision import FULL
from .schema import Config


@dataclass(frozen=True)
class BatchPlan:
    """How `global_batch` images become one optimizer step: world x accumulation x micro_batch; and how BatchNorm sees
    them: by `norm_batch`, which a micro-batch holds some of, or `norm_ranks` ranks hold together."""

    global_batch: int
    world: int
    micro_batch: int
    accumulation: int
    norm_batch: int
    norm_ranks: int


USUAL_NORM_BATCH = 128
"""Images, about, where a configuration names no `train.norm_batch`."""


def norm_batch(config: Config) -> int:
    """The images that BatchNorm takes its statistics over: a property of the recipe, not of the processes.

    Where the configuration names none: its micro-batch, or else the divisor of its global batch nearest to 128.
    """
    train, usual = config.train, USUAL_NORM_BATCH
    divisors = (n for n in range(1, min(train.global_batch, usual**2) + 1) if train.global_batch % n == 0)
    return train.norm_batch or train.at_once or min(divisors, key=lambda n: max(n / usual, usual / n))


def resolve(config: Config, world: int, dataset_size: int | None = None) -> BatchPlan:
    """The micro-batch and accumulation of each of `world` processes; `train.micro_batch: auto` is as 0 here, which
    knows no machine. Raises RunError where there are none."""
    check(config, dataset_size)
    check_registered(config)
    plan = split(config, world)
    reduced = config.engine.reduce
    if reduced != FULL.name and not (reduced == config.train.precision and config.engine.zero_stage):
        raise RunError("engine.reduce=bf16 goes with train.precision=bf16 and engine.zero_stage 1, 2 or 3; set it fp32")
    return plan


def split(config: Config, asked: int | None) -> BatchPlan:
    """The plan for as many processes as are `asked`; None: not known yet, and nothing is refused that some number of
    them could do. Raises RunError where the batch does not split."""
    world, batch, micro, norm = asked or 1, config.train.global_batch, config.train.at_once, norm_batch(config)
    if batch % world:
        raise RunError(f"train.global_batch={batch} is not divisible by the {world} processes")
    share = batch // world
    if micro and share % micro:
        whose = f"the {share} images of each process" if world > 1 else f"{share} images"
        raise RunError(f"train.micro_batch={micro} does not divide {whose} (train.global_batch={batch})")
    if batch % norm:
        raise RunError(f"train.norm_batch={norm} does not divide train.global_batch={batch}")
    fits = share if share % norm == 0 else math.gcd(share, norm)  # this one does on any number of processes
    micro = micro or fits
    if config.data.mixes and micro % 2:
        key = f"train.micro_batch={micro}" if config.train.at_once else f"a share of {micro} images a process"
        raise RunError(f"data.mixup and data.cutmix mix images in pairs, and {key} is odd; make it even")
    ranks = max(1, norm // micro)  # that hold one norm batch together
    if asked and (micro * ranks % norm or world % ranks):
        raise RunError(
            f"train.norm_batch={norm}: BatchNorm takes its statistics over {norm} images, and {world} x "
            f"train.micro_batch={micro} at once are not made of that many; set train.micro_batch={fits}"
        )
    return BatchPlan(batch, world, micro, share // micro, norm, ranks)


def cuts(config: Config, plan: BatchPlan) -> list[BatchPlan]:
    """Every way to cut a process's share into micro-batches that leaves BatchNorm's batch as it is, the smallest
    first."""
    found, share = [], plan.global_batch // plan.world
    for micro in (n for n in range(1, share + 1) if share % n == 0):
        train = replace(config.train, micro_batch=micro, norm_batch=plan.norm_batch)
        try:
            found.append(split(replace(config, train=train), plan.world))
        except RunError:
            continue
    return found
