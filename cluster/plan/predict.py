"""What a run will take, before it is begun: memory and time by part, checkpoints, disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipelines.order import steps_per_epoch
from tdformer import TDFormer
from tdformer.errors import first_line
from tdformer.kernels import stands_for
from tdformer.policies import choices

from ..build import planner
from ..build.memory import GIB, RESERVE, Memory
from ..build.optimizers import OPTIMIZERS
from ..build.planner import Recompute
from ..build.setup import Setup
from ..config import BatchPlan, Config
from ..config.batches import cuts
from ..config.shape import Shape
from ..config.values import AUTO
from ..errors import RunError
from . import durations, interval
from .chips import Chip
from .choice import chosen as cut
from .figures import Figure, Plan, Section
from .machine import Machine

COUNT = "counted"
LIBRARIES, LOADED = 0.56, "resident at the first step of a tiny run, on a CPU with torch 2.13 (28 November 2026)"
"""GiB of a process that computes on a CPU, without its tensors: peak_gib in the first row of speed.jsonl, quick start
with model.width=16, one time step and a batch of 2."""
COPY, COPIED = 3.0e9, "3.0 GB/s, from memory to memory on 2 CPU cores (24 November 2026); a GPU's copy was not measured"
"""Bytes/s with which a checkpoint is copied to host memory, while training stands still: hst_10_768 in
benchmarks/results/checkpoint.md."""
WRITE, WRITTEN = 350e6, "350 MB/s, on a local disk (24 November 2026)"
"""Bytes/s with which it is written, hashed and synced, while training goes on: the same."""
RESTART = 120.0
"""Seconds from a failure to the next step, without the queue (assumed)."""
INTERVAL = "the least of checkpoint.every_minutes, every_steps and an epoch"
ROW = 400
"""Bytes of a row in metrics.jsonl and speed.jsonl together (assumed)."""


@dataclass(frozen=True)
class Terms:
    """price: of a GPU-hour; mtbf: mean hours between failures of one GPU, or without GPUs of one machine."""

    price: float | None = None
    mtbf: float | None = None


def predict(
    setup: Setup,
    shape: Shape,
    chip: Chip | None,
    machine: Machine | None = None,
    terms: Terms | None = None,
    search: bool = True,
) -> Plan:
    """The plan of a run on so many processes. chip: of which kind the GPUs are; machine: what was measured instead, or
    what is known of a machine without; search: whether to look for the largest micro-batch also where the run's own
    fits, which prices some. Raises RunError, ModelError or DataError for what could not be begun, and where
    the memory of a step cannot be counted; what does not fit is told in the plan."""
    config = setup.config
    if machine is None:
        machine = Machine.unknown(config, shape) if chip is None else Machine.of_chip(chip, config, shape)
    with torch.device("meta"), stands_for("cuda" if shape.gpus else "cpu"):
        batch = cut(setup, machine)
        setup, config = batch.setup, batch.setup.config
        model, plan, terms = setup.outline, setup.plan, terms or Terms()
        try:
            chosen = settled(model, config, plan, machine.memory)
            fits = chosen.total <= machine.memory.size * machine.memory.usable
            searched = not batch.looked and (search or not fits)  # else all were looked at
            largest = _largest(model, config, plan, machine.memory) if searched else None
        except RuntimeError as error:
            raise RunError(f"the memory of a step is not known beforehand ({first_line(error)})") from error
        assert chosen.cost is not None
        step = durations.of_step(setup, machine, chosen.cost.course)
        once = planner.price(model, config, plan, choices(model.segments)[0].policy, 1).cost
        test = durations.of_evaluation(setup, machine)
        memory = _memory(model, config, plan, chosen, machine.memory)
    assert once is not None
    if searched:
        source = "counted, of those that divide" if largest else "counted: not even the smallest that divides fits"
        memory["largest_micro_batch"] = Figure(largest, "images", source)
    checkpoint, size, stall = _checkpoints(model, config)
    run = _run(setup, shape, machine, terms, step["total"], test, stall, once.flops / plan.micro_batch)
    epoch = steps_per_epoch(len(setup.samples), plan.global_batch)
    seconds = step["total"].value
    apart = None if seconds is None else interval.every(config, seconds, epoch)
    checkpoint |= _intervals(shape, terms, stall, Figure(apart and apart / 60, "minutes", INTERVAL))
    about: dict[str, str | int] = {
        "name": config.name,
        "model": config.model.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "on": f"{shape}{f' ({machine.name})' if chip or machine.speed else ''}",
        "micro_batch": plan.micro_batch,
        "accumulation": plan.accumulation,
        "recompute": chosen.policy,
        "borders": chosen.borders,
    }
    return Plan(
        about,
        fits,
        memory,
        _host(setup, machine, size),
        step,
        run,
        checkpoint,
        _disk(setup, size),
        tuple(_warnings(config, chosen, machine.memory, largest, fits)),
        batch.section(),
    )


# ------------------------------------------------------------------------------------------------------------- memory


def settled(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> Recompute:
    """What the run computes again, priced; the least of all where `auto` finds nothing that fits."""
    if config.recompute.policy != AUTO:
        return planner.price(model, config, plan, config.recompute.policy, config.recompute.borders)
    room, tried = memory.size * (1 - RESERVE), []
    for choice in choices(model.segments):
        tried.append(planner.price(model, config, plan, *choice))
        if tried[-1].total <= room:
            return tried[-1]
    return min(tried, key=lambda one: one.total)


def _largest(model: TDFormer, config: Config, plan: BatchPlan, memory: Memory) -> int | None:
    """The largest micro-batch of these that fits, by bisection; with the policy that needs least, where it is free."""
    auto = config.recompute.policy == AUTO
    candidates = choices(model.segments)
    choice = candidates[-1] if auto else (config.recompute.policy, config.recompute.borders)
    room = memory.size * (1 - RESERVE if auto else memory.usable)
    ways = cuts(config, plan)
    low, high = 0, len(ways)  # the first `low` fit, those from `high` on do not
    while low < high:
        middle = (low + high) // 2
        if planner.price(model, config, ways[middle], *choice).total <= room:
            low = middle + 1
        else:
            high = middle
    return ways[low - 1].micro_batch if low else None


def _memory(model: TDFormer, config: Config, plan: BatchPlan, chosen: Recompute, memory: Memory) -> Section:
    cost = chosen.cost
    assert cost is not None
    beside = planner.activations(config, cost)
    kept = min(cost.kept, beside)  # at the peak some may have gone
    sizes = planner.state_parts(model, config, plan, cost)._asdict()
    sizes |= {"kept_activations": kept, "transients": beside - kept}
    found = {name: Figure(size / GIB, "GiB", COUNT) for name, size in sizes.items()}
    found["total"] = Figure(chosen.total / GIB, "GiB", "sum of these")
    room = memory.size * memory.usable
    found["available"] = Figure(room / GIB if math.isfinite(room) else None, "GiB", memory.whose)
    return found


def _host(setup: Setup, machine: Machine, checkpoint: int) -> Section:
    """GiB of host memory, that of the first process, beside `memory` where that is the host's too."""
    config, plan = setup.config, setup.plan
    view, (channels, *size) = setup.view, setup.samples.shape
    sample = channels * size[0] * size[1] if view is None else view.bytes(channels)
    batches = max(1, 2 * config.data.workers)  # a worker has memory for two
    read = sample * plan.micro_batch * batches / GIB
    libraries = Figure(None, "GiB", "not measured with CUDA's") if machine.gpu else Figure(LIBRARIES, "GiB", LOADED)
    return {
        "libraries": libraries,
        "loader": Figure(read, "GiB", f"counted: {batches} micro-batches of pixels; decoders and caches are not known"),
        "checkpoint_copy": Figure(checkpoint / GIB, "GiB", "counted, on the first process while it writes"),
    }


# --------------------------------------------------------------------------------------------------------------- time


def _run(
    setup: Setup,
    shape: Shape,
    machine: Machine,
    terms: Terms,
    step: Figure,
    evaluation: Figure,
    stall: float,
    flops: float,
) -> Section:
    """To the end of training. flops: of an image, without recomputation."""
    config, plan = setup.config, setup.plan
    each = steps_per_epoch(len(setup.samples), plan.global_batch)
    steps = each * config.train.epochs
    found = {
        "images": Figure(len(setup.samples), "images", COUNT),
        "steps": Figure(steps, "steps", COUNT),
        "gflop_image": Figure(flops / 1e9, "GFLOP", "counted, a training step without recomputation"),
    }
    what = "GPU-hours" if machine.gpu else "process-hours"
    if step.value is None or evaluation.value is None:
        unknown = Figure(None, "h", machine.missing)
        return found | {"hours": unknown, "gpu_hours": unknown._replace(unit=what)}
    rate = plan.global_batch / step.value
    found["images_second"] = Figure(rate, "images/s", "from a step's seconds")
    if machine.peak is not None:
        found["mfu"] = Figure(flops * rate / plan.world / machine.peak, "of the peak", "from these and the datasheet")
    training = steps * step.value
    tests = -(-config.train.epochs // config.train.eval_every_epochs)
    every = interval.every(config, step.value, each)
    saving = stall * training / every
    found["training_hours"] = Figure(training / 3600, "h", "steps times a step's seconds")
    found["evaluation_hours"] = Figure(tests * evaluation.value / 3600, "h", f"{tests} times; {evaluation.source}")
    found["checkpoint_hours"] = Figure(saving / 3600, "h", f"a stall each {every:,.0f} s")
    seconds = training + tests * evaluation.value + saving
    good, source = training / seconds, "training over all of it; failures are not in it: --mtbf HOURS"
    if terms.mtbf is not None:
        failing = interval.lost(every, 0.0, interval.between(shape, terms.mtbf), RESTART)
        good, source = good * (1 - failing), f"with failures; a restart takes {RESTART:.0f} s (assumed)"
    hours = training / good / 3600 if good else None
    found["goodput"] = Figure(good, "of the time", source)
    found["hours"] = Figure(hours, "h", "training over goodput, without the queue")
    taken = None if hours is None else hours * shape.world
    found["gpu_hours"] = Figure(taken, what, "hours times processes")
    if terms.price is not None and taken is not None:
        found["cost"] = Figure(taken * terms.price, "of --price", f"{terms.price:g} a GPU-hour")
    return found


# -------------------------------------------------------------------------------------------------- checkpoints, disk


def _checkpoints(model: TDFormer, config: Config) -> tuple[Section, int, float]:
    """And the bytes of one, and the seconds that training stands still for it."""
    kept = len(OPTIMIZERS.get(config.train.optimizer).states)
    weights = sum(t.numel() for t in model.state_dict().values())
    moments = kept * sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = 4 * (weights * (2 if config.train.ema_decay else 1) + moments)
    section = {
        "size": Figure(size / GIB, "GiB", "counted: weights, moments and averages in fp32"),
        "stall": Figure(size / COPY, "s", COPIED),
        "write": Figure(size / WRITE, "s", f"{WRITTEN}; while training goes on"),
    }
    return section, size, size / COPY


def _intervals(shape: Shape, terms: Terms, stall: float, every: Figure) -> Section:
    found = {"interval": every}
    if terms.mtbf is None:
        return found | {"best_interval": Figure(None, "minutes", "not known without --mtbf HOURS")}
    between = interval.between(shape, terms.mtbf)
    return found | {
        "failures": Figure(between / 3600, "h between two", "--mtbf over the GPUs, or the machines"),
        "best_interval": Figure(
            interval.daly(stall, between) / 60, "minutes", "Young and Daly, from stall and failures"
        ),
    }


def _disk(setup: Setup, size: int) -> Section:
    config = setup.config
    steps = steps_per_epoch(len(setup.samples), setup.plan.global_batch) * config.train.epochs
    kept = config.checkpoint.keep + 2
    parts = {
        "checkpoints": Figure(kept * size / GIB, "GiB", f"{kept}: checkpoint.keep, the best, and one that is written"),
        "rows": Figure(ROW * steps / config.log.every_steps / GIB, "GiB", f"{ROW} bytes each (assumed)"),
    }
    return parts | {"total": Figure(sum(f.value or 0.0 for f in parts.values()), "GiB", "sum of these")}


def _warnings(config: Config, chosen: Recompute, memory: Memory, largest: int | None, fits: bool) -> list[str]:
    found = []
    if not fits:
        room = memory.size * memory.usable / GIB
        ways = f"train.micro_batch={largest} is the largest that fits" if largest else "no micro-batch fits"
        found.append(f"a process needs {chosen.total / GIB:.2f} GiB and has {room:.2f} ({memory.whose}); {ways}")
    return found
