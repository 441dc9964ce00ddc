"""The seconds of a step on this machine's CPU, from its operators: each is timed by itself, with tensors of the shapes
that the step gives it, between others of the step. No step of the run is taken."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors

from tdformer import TDFormer, kernels
from tdformer.kernels import stands_for
from tdformer.measure import Call, Calls, measure_evaluation
from tdformer.norm import norm_batch
from tdformer.unit import Current, Unit

from ..build.memory import Memory
from ..build.model import example
from ..build.optimizers import OPTIMIZERS
from ..build.planner import Recompute, counted
from ..build.setup import Setup
from ..plan.predict import settled
from ..plan.rates import PARTS

LEAST, MOST = 0.01, 30
"""Seconds for which operators are called, times their number, and how often at most; once at least."""
CACHE = 2**25
"""Bytes of the operators that take turns, where a step has so many: as many as a cache has."""
IMAGES = 4
"""For which it is seen how many of a convolution's inputs are not zero: where they are few it is done by events."""

Clocks = Tensor
"""Seconds by the clock, and of these on a core: `[2]`."""
Shares = dict[tuple[object, object], float]
"""Of inputs that are not zero, by `[C, H, W]` of the input and the shape of the weight."""
Run = Callable[[], object]


class Alone(NamedTuple):
    """Both clocks, `[2]` each, summed over the operators of a micro-batch in training by part, of one in evaluation,
    and of a step's end; how many operators the first two are; and what is computed again in them."""

    training: dict[str, Clocks]
    evaluation: Clocks
    end: Clocks
    operators: tuple[int, int]
    chosen: Recompute


class Timing(NamedTuple):
    """What is to be timed: the bytes that it is given, and how it is made ready."""

    bytes: int
    ready: Callable[[], Run]


def alone(setup: Setup, memory: Memory) -> Alone:
    """All ranks do it at once, and the slowest counts. Where they share cores, it is their mean on a core, times the
    threads of one: short calls are seldom interrupted, and steps are, so the clock does not tell."""
    training, evaluation, chosen = _calls(setup, memory)
    model = setup.model()
    shares = _shares(model, setup)
    differ = {call.key: call for call in (*training, *evaluation)}
    timings = [Timing(call.bytes, partial(_ready, call, shares)) for call in differ.values()]
    timings.append(_end(model, setup))
    *seconds, end = (clocks for some in _neighbours(timings) for clocks in _timed([one.ready() for one in some]))
    known = dict(zip(differ, seconds, strict=True))
    parts = {part: torch.zeros(2, dtype=torch.float64) for part in PARTS}
    tested = torch.zeros(2, dtype=torch.float64)
    for call in training:
        parts[call.part] += call.times * known[call.key]
    for call in evaluation:
        tested += call.times * known[call.key]
    shared = setup.world * torch.get_num_threads() / len(os.sched_getaffinity(0))
    for clocks in (*parts.values(), tested, end):
        dist.all_reduce(clocks[:1], dist.ReduceOp.MAX)
        dist.all_reduce(clocks[1:].div_(setup.world))
        if shared > 1:
            clocks[0] = shared * clocks[1]
    return Alone(parts, tested, end, (training.count, evaluation.count), chosen)


def _calls(setup: Setup, memory: Memory) -> tuple[Calls, Calls, Recompute]:
    """Those of a micro-batch in training and in evaluation, and what is computed again."""
    config, plan, model = setup.config, setup.plan, setup.outline
    training, evaluation = Calls(), Calls()
    with torch.device("meta"), stands_for("cpu"):
        chosen = settled(model, config, plan, memory)
        counted(model, config, plan, chosen.policy, chosen.borders, training)
        images, short = example(model, plan.micro_batch, "meta"), config.train.computes_in.short
        measure_evaluation(model, images, short, evaluation)
    return training, evaluation, chosen


@torch.no_grad()
def _shares(model: TDFormer, setup: Setup) -> Shares:
    """As they are before training."""
    found: dict[tuple[object, object], list[float]] = {}

    def seen(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer = module.current if isinstance(module, Unit) else module
        assert isinstance(layer, Current)
        share = float((inputs[0] != 0).float().mean())
        found.setdefault((tuple(inputs[0].shape[2:]), tuple(layer.conv.weight.shape)), []).append(share)

    hooks = [m.register_forward_pre_hook(seen) for m in model.modules() if isinstance(m, Unit | Current)]
    norm_batch(model, None)
    images = example(model, min(IMAGES, setup.plan.micro_batch))
    model.train()(images.normal_() if not setup.samples.kind.frames else images.random_(4))
    for hook in hooks:
        hook.remove()
    return {key: statistics.mean(values) for key, values in found.items()}


def _ready(call: Call, shares: Shares) -> Run:
    """With its tensors; those of spikes as sparse as they are."""
    args, kwargs = call.arguments()
    if call.function is kernels.convolve:
        x, weight, *others = args
        assert isinstance(x, Tensor) and isinstance(weight, Tensor)
        share = shares.get((tuple(x.shape[1:]), tuple(weight.shape)), 1.0)
        args = (x if share == 1 else (torch.rand(x.shape) < share).to(x.dtype), weight, *others)
    elif call.function is kernels.pack:
        x, *others = args
        assert isinstance(x, Tensor)
        args = ((x > 0).to(x.dtype), *others)
    return lambda: call.function(*args, **kwargs)


def _end(model: TDFormer, setup: Setup) -> Timing:
    """What an optimizer step does after backward, with this process's share of weights and moments, but for what it
    waits for others; without ZeRO gradients are laid together for them."""
    from ..train.engine import parameter_groups

    train, sharded, world = setup.config.train, setup.config.engine.zero_stage > 0, setup.plan.world
    groups = parameter_groups(model, train.weight_decay, train.layer_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    if sharded:
        own = sum(p.numel() for p in trained) // world
        trained = [nn.Parameter(torch.randn(own))]
        groups = [{**groups[0], "params": trained}]
    optimizer = OPTIMIZERS.get(train.optimizer).make(groups, train)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    gradients = [p.grad for p in trained if p.grad is not None]
    weights = [p.detach() for p in model.parameters()] if train.ema_decay else []
    average = [weight.clone() for weight in weights]

    def end() -> None:
        if world > 1 and not sharded:
            _flatten_dense_tensors(gradients).mul_(1 / world)
        total = torch.nn.utils.get_total_norm(gradients)
        if train.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(trained, train.clip_grad, total)
        optimizer.step()
        if average:
            torch._foreach_lerp_(average, weights, 1 - train.ema_decay)

    return Timing(sum(gradient.nbytes for gradient in gradients), lambda: end)


def _neighbours(timings: Iterable[Timing]) -> Iterator[list[Timing]]:
    """As they follow each other, so many at a time as fill a cache; the last ones are with those before them."""
    found: list[list[Timing]] = [[]]
    for one in timings:
        if sum(before.bytes for before in found[-1]) >= CACHE:
            found.append([])
        found[-1].append(one)
    if len(found) > 1 and sum(one.bytes for one in found[-1]) < CACHE:
        found[-2:] = [found[-2] + found[-1]]
    yield from found


def _timed(runs: list[Run]) -> list[Clocks]:
    """Of one call of each. They take turns, with two calls in a turn: of what a step reads, some was written just
    before, and some long ago. The mean of both, where a cache has the tensors still, and where it has others'."""
    dist.barrier()
    for run in runs:
        run()
    near: list[list[Clocks]] = [[] for _ in runs]
    far: list[list[Clocks]] = [[] for _ in runs]
    gc.disable()  # a collection of all there is takes as long as a thousand small operators
    begun = time.perf_counter()
    while not far[0] or (len(far[0]) < MOST and time.perf_counter() - begun < LEAST * len(runs)):
        for run, again, first in zip(runs, near, far, strict=True):
            first.append(_once(run))
            again.append(_once(run))
    gc.enable()
    return [(_usual(again) + _usual(first)) / 2 for again, first in zip(near, far, strict=True)]


def _usual(found: list[Clocks]) -> Clocks:
    """By the clock the median, since others may interrupt; on a core the mean, with what it costs to be interrupted."""
    clock, core = torch.stack(found).T
    return torch.stack([clock.median(), core.mean()])


def _once(run: Run) -> Clocks:
    begun = time.perf_counter(), time.process_time()
    run()
    return torch.tensor([time.perf_counter() - begun[0], time.process_time() - begun[1]], dtype=torch.float64)
