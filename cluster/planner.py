"""What a training step needs: the memory of one process, and the cheapest recomputation that fits into it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from pipelines.samples import Samples
from tdformer import TDFormer
from tdformer.measure import Cost, measure_step

from .config import BatchPlan, Config
from .errors import RunError
from .model import build_model, example

GIB = 2**30
RESERVE = 0.1
"""The share of the memory left to the allocator's gaps, the libraries and the data loader."""


@dataclass(frozen=True)
class Recompute:
    """A choice of `recompute.policy` and `recompute.borders`, its cost for one micro-batch, and the bytes of all."""

    policy: str
    borders: int
    cost: Cost
    total: int

    def __str__(self) -> str:
        borders = f", every {self.borders}th border kept" if self.borders > 1 else ""
        return f"recompute {self.policy}{borders}: {self.total / GIB:.2f} GiB planned"


def planned(config: Config, data: Samples, plan: BatchPlan) -> Recompute | None:
    """What `recompute.policy: auto` chooses; None where the config says it. Raises RunError where nothing fits."""
    if config.recompute.policy != "auto":
        return None
    with torch.device("meta"):
        return choose(build_model(config, data), config, plan)


def choose(model: TDFormer, config: Config, plan: BatchPlan) -> Recompute:
    """The cheapest recomputation whose peak fits into the memory there is; `model` is on the meta device.

    Candidates by their operations: keep everything, units, then units with fewer borders kept. Raises RunError, naming
    what the smallest would need, where none fits.
    """
    limit = memory(config)
    tried: list[Recompute] = []
    for policy, borders in [("none", 1)] + [("unit", 2**i) for i in range(model.segments.bit_length())]:
        tried.append(price(model, config, plan, policy, borders))
        if tried[-1].total <= limit * (1 - RESERVE):
            return tried[-1]
    smallest = min(tried, key=lambda choice: choice.total)
    raise RunError(
        f"a micro-batch of {plan.micro_batch} needs {smallest.total / GIB:.2f} GiB a process with recompute.policy="
        f"{smallest.policy}, and {limit * (1 - RESERVE) / GIB:.2f} of {limit / GIB:.2f} GiB may be used; "
        "lower train.micro_batch or raise engine.zero_stage"
    )


def price(model: TDFormer, config: Config, plan: BatchPlan, policy: str, borders: int) -> Recompute:
    """What one choice costs."""
    before = model.recompute, model.keep.borders
    model.set_recompute(policy, borders)
    cost, _ = measure_step(model, example(model, plan.micro_batch, "meta"), config.train.precision == "bf16")
    model.set_recompute(*before)
    return Recompute(policy, borders, cost, cost.peak + state_bytes(model, config, plan))


def state_bytes(model: TDFormer, config: Config, plan: BatchPlan) -> int:
    """Weights, gradients, AdamW's two moments (and ZeRO's fp32 copy of the weights) and the EMA, in one process.

    Over several segments autograd sums up whole gradients before it hands them on: a second set, unless that one
    becomes the gradient.
    """
    count = sum(p.numel() for p in model.parameters())
    stage, world = config.engine.zero_stage, plan.world
    weights = 4 * count // (world if stage == 3 else 1)
    gradients = 4 * count // (world if stage >= 2 else 1)
    moments = (8 if stage == 0 else 12) * count // (world if stage >= 1 else 1)
    summed = 4 * count if model.segments > 1 and (stage >= 2 or plan.accumulation > 1) else 0
    return weights + gradients + summed + moments + (4 * count if config.train.ema_decay else 0)


def memory(config: Config) -> float:
    """Bytes one process may use: recompute.memory, the GPU's, or this machine's shared by its processes."""
    if config.recompute.memory is not None:
        return config.recompute.memory * GIB
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return ram / max(1, config.train.processes)
