"""What a training step needs: the memory of one process, and the cheapest recomputation that fits into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from tdformer import TDFormer
from tdformer.errors import first_line
from tdformer.kernels import standing
from tdformer.measure import Calls, Cost, measure_step
from tdformer.norm import norm_batch
from tdformer.policies import POLICIES, Choice, choices, smallest

from ..config import BatchPlan, Config, either
from ..config.values import AUTO
from ..errors import RunError
from .memory import GIB, RESERVE, Memory, here
from .model import example
from .optimizers import OPTIMIZERS


@dataclass(frozen=True)
class Recompute:
    """A choice of `recompute.policy` and `recompute.borders`, the bytes of all, and its cost for one micro-batch (None:
    `total` is a bound)."""

    policy: str
    borders: int
    total: float
    cost: Cost | None = None

    def __str__(self) -> str:
        borders = f", every {self.borders}th border kept" if self.borders > 1 else ""
        bound = "at most " if self.cost is None else ""
        return f"recompute {self.policy}{borders}: {bound}{self.total / GIB:.2f} GiB planned"


def planned(model: TDFormer, config: Config, plan: BatchPlan) -> Recompute | None:
    """What `recompute.policy: auto` chooses for `model`, which is on meta; the same on all ranks, which call it
    together. None where the config says it. What cannot be priced gets the policy that needs least. Raises RunError
    where nothing fits, or where another rank has less memory than the first, who chose, and too little."""
    memories: list[Memory] = [here(config, ranks_here(plan.world))] * plan.world
    if plan.world > 1:  # under ZeRO 3 backward gathers what it computes again: they must agree, so the least counts
        dist.all_gather_object(memories, memories[0])
    least = min(memories, key=lambda memory: memory.size)
    if config.recompute.policy != AUTO:
        if least.size < memories[0].size:
            check(model, config, plan, least)
        return None
    with torch.device("meta"):
        try:
            return choose(model, config, plan, least)
        except RuntimeError:  # `check` has told
            return Recompute(smallest(), 1, at_most(model, config, plan))


def choose(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> Recompute:
    """The first of `tdformer.policies.choices`, which are tried as fast as they were on an H100, that leaves a tenth of
    `memory` free; `model` is on meta. Raises RunError, naming what the smallest would need, where none fits, and
    RuntimeError where a step cannot be priced."""
    memory = memory._replace(usable=1 - RESERVE)
    room, bound = memory.size * memory.usable, at_most(model, config, plan)
    candidates = choices(model.segments)
    if bound <= room:
        return Recompute(*candidates[0], bound)
    tried: list[Recompute] = []
    for choice in candidates:
        tried.append(price(model, config, plan, *choice))
        if tried[-1].total <= room:
            return tried[-1]
    raise RunError(too_large(min(tried, key=lambda choice: choice.total), model, config, plan, memory))


def check(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> str | None:
    """Compare what a step of `model`, which is on meta, needs with the memory before it is taken. Returns a warning
    where little is left, or where there is no knowing. Raises RunError where it does not fit."""
    with torch.device("meta"):
        if at_most(model, config, plan) <= memory.size * (memory.usable - RESERVE):
            return None
        try:
            if config.recompute.policy == AUTO:
                choose(model, config, plan, memory)
                return None
            needed = price(model, config, plan, config.recompute.policy, config.recompute.borders)
        except RuntimeError as e:
            return f"the memory of a step is not known beforehand ({first_line(e)})"
    if needed.total > memory.size * memory.usable:
        raise RunError(too_large(needed, model, config, plan, memory))
    if needed.total > memory.size * (memory.usable - RESERVE):
        return _needs(needed, plan, memory)
    return None


def expected(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> Recompute:
    """What a run in `memory` takes, which was checked before: prices are kept, so it costs nothing again. `model` is on
    meta. Raises RuntimeError where a step cannot be priced."""
    asked = config.recompute
    if asked.policy == AUTO:
        return choose(model, config, plan, memory)
    if (bound := at_most(model, config, plan)) <= memory.size * memory.usable:
        return Recompute(asked.policy, asked.borders, bound)
    return price(model, config, plan, asked.policy, asked.borders)


def _needs(needed: Recompute, plan: BatchPlan, memory: Memory) -> str:
    return (
        f"a micro-batch of {plan.micro_batch} needs {needed.total / GIB:.2f} GiB a process with recompute.policy="
        f"{needed.policy}, and {memory.size * memory.usable / GIB:.2f} of {memory.size / GIB:.2f} GiB may be used "
        f"({memory.whose})"
    )


def too_large(needed: Recompute, model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> str:
    """What is needed, and what there is to change."""
    remedies = ["lower train.micro_batch"] if plan.micro_batch > 1 and config.train.micro_batch != AUTO else []
    if config.recompute.policy != AUTO:  # it has tried what needs less
        if needed.policy != smallest():
            remedies.append(f"set recompute.policy={smallest()}")
        if POLICIES.get(needed.policy).packed and needed.borders < model.segments:
            remedies.append(f"raise recompute.borders, up to {model.segments}")
    if config.engine.graph:
        remedies.append("set engine.graph=false")
    elif plan.world > 1 and config.engine.zero_stage < 3:
        remedies.append("raise engine.zero_stage")
    if "shared" in memory.whose:
        remedies.append("start fewer processes on a machine")
    remedies.append(f"{'raise' if memory.whose == 'recompute.memory' else 'set'} recompute.memory, if there is more")
    return f"{_needs(needed, plan, memory)}; {either(remedies)}"


def at_most(model: TDFormer, config: Config, plan: BatchPlan) -> int:
    """More than a step needs with any policy, at no cost: as if each unit's output had the size of the picture."""
    height, width = model.config["image_size"]
    channels = sum(p.shape[0] for p in model.parameters() if p.dim() > 1)
    activations = 4 * channels * height * width * model.time_steps * plan.micro_batch
    most: int = (1 + config.engine.graph) * 2 * activations + state_bytes(model, config, plan)
    return most + _working(model, config)


_priced: dict[str, Cost] = {}


def price(model: TDFormer, config: Config, plan: BatchPlan, policy: str, borders: int) -> Recompute:
    """What one choice costs; seconds for a large model, so a process that checks and then trains does it once."""
    short = config.train.computes_in.short
    groups = min(plan.norm_batch, plan.micro_batch)
    about = model.config, model.frames, standing(), config.train.freeze
    key = repr((*about, plan.micro_batch, groups, short, policy, borders))
    if key not in _priced:
        _priced[key] = counted(model, config, plan, policy, borders)
    cost = _priced[key]
    return Recompute(policy, borders, sum(state_parts(model, config, plan, cost)) + activations(config, cost), cost)


def counted(
    model: TDFormer, config: Config, plan: BatchPlan, policy: str, borders: int, calls: Calls | None = None
) -> Cost:
    """A micro-batch's training step of one choice; calls: where each of its operators is noted."""
    before = Choice(model.recompute, model.keep.borders)
    model.set_recompute(policy, borders)
    norm_batch(model, min(plan.norm_batch, plan.micro_batch))
    images, short = example(model, plan.micro_batch, "meta"), config.train.computes_in.short
    cost, _ = measure_step(model, images, short, calls)
    model.set_recompute(*before)
    return cost


def activations(config: Config, cost: Cost) -> int:
    """Bytes of what is neither the model's nor the optimizer's, at the peak of all. A graph keeps them, and gradients,
    beside those of a step that logs; its inputs, 4 bytes a value of the step's pictures, are not counted."""
    return cost.peak if config.engine.zero_stage else (1 + config.engine.graph) * (cost.together - cost.gradients)


BUCKET = 25 * 2**18
"""Elements, 25 MiB in fp32, as torch's DDP: small enough that the first is summed early in backward, and large enough
that a network's latency is little beside it."""


PERSISTENT = 100_000
"""Elements, below which ZeRO 3 keeps a weight whole, its own default: to gather 0.4 MB is all latency."""


def bucket(model: nn.Module) -> int:
    """How many elements the ranks exchange at once: no more than the model has, and no parameter has more."""
    sizes = [int(getattr(p, "ds_numel", p.numel())) for p in model.parameters()]
    return min(sum(sizes), max(BUCKET, *sizes))


def live(model: nn.Module) -> int:
    """How many elements of weights ZeRO 3 gathers: of the modules that compute and, so that these do not wait for the
    network, of those that do next."""
    return 2 * bucket(model)


class StateBytes(NamedTuple):
    """Bytes in one process of what is the model's; optimizer: what it keeps, and ZeRO's fp32 copy of the
    weights; buckets: what passes between the ranks; working: of the optimizer's step, what is more than these; batches:
    samples on a GPU, which is sent those of the next step."""

    weights: int
    gradients: int
    optimizer: int
    buckets: int
    working: int
    ema: int
    batches: int


def state_bytes(model: TDFormer, config: Config, plan: BatchPlan) -> int:
    """Their sum."""
    return sum(state_parts(model, config, plan))


def state_parts(model: TDFormer, config: Config, plan: BatchPlan, cost: Cost | None = None) -> StateBytes:
    """What a process holds of a model, which may be on meta; with a step's cost and without ZeRO, what of it is there
    at the peak: early in backward there are few gradients, and buckets come with the last ones.

    Over several segments autograd sums up whole gradients before it hands them on: a second set, unless that one
    becomes the gradient.
    """
    count = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stage, world = config.engine.zero_stage, plan.world
    weights = 4 * count // (world if stage == 3 else 1)
    if stage == 3:
        small = sum(p.numel() for p in model.parameters() if p.numel() < PERSISTENT)
        weights += 4 * min(count, live(model) + small)
    gradients = 4 * trained // (world if stage >= 2 else 1)
    kept = 4 * len(OPTIMIZERS.get(config.train.optimizer).states)
    moments = (kept if stage == 0 else kept + 4) * trained // (world if stage >= 1 else 1)
    summed = 4 * trained if model.segments > 1 and (stage >= 2 or plan.accumulation > 1) else 0
    # A bucket that is filled, one that is summed over the ranks, and a copy of that.
    buckets, working = 4 * bucket(model) * (3 if stage else int(world > 1)), 0
    if cost is not None and not stage:
        before = 4 * trained if plan.accumulation > 1 else 0  # of the micro-batches before
        over = 4 * trained - before - cost.together  # of a step's end over its peak
        buckets = max(0, over + buckets)
        working = max(0, over + _working(model, config) - buckets)
        gradients, summed = before + cost.gradients, 0
    gradients = (1 + config.engine.graph) * (gradients + summed)
    ema = 4 * count if config.train.ema_decay else 0
    return StateBytes(weights, gradients, moments, buckets, working, ema, sent(model, plan))


def _working(model: TDFormer, config: Config) -> int:
    """Bytes that the optimizer's step makes and lets go; a GPU's moves all parameters in one kernel, and makes none."""
    if standing() == "cuda":
        return 0
    largest = max((p.numel() for p in model.parameters() if p.requires_grad), default=0)
    return 4 * OPTIMIZERS.get(config.train.optimizer).working * largest


def sent(model: TDFormer, plan: BatchPlan) -> int:
    """Bytes of the samples of two steps, as `pipelines.delivery` sends them to a GPU: pictures in uint8, frames in
    int16 (labels and what mixes them are a few numbers a sample); a CPU has them in the host's memory."""
    if standing() != "cuda":
        return 0
    images = example(model, plan.micro_batch, "meta")
    return 2 * plan.accumulation * images.numel() * (1 if images.dim() == 4 else 2)


def ranks_here(world: int) -> int:
    """How many of the ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world))


def first_here(rank: int) -> bool:
    """Whether it is the first of those that do."""
    return int(os.environ.get("LOCAL_RANK", rank)) == 0
