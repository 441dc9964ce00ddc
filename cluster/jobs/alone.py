"""The seconds of a step on this machine's CPU, from its operators: each is timed alone, with tensors of the shapes that
the step gives it. No step of the run is taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tdformer import TDFormer, kernels
from tdformer.kernels import stands_for
from tdformer.measure import Call, Calls, measure_evaluation
from tdformer.norm import norm_batch
from tdformer.unit import Current, Unit

from ..build.memory import Memory
from ..build.model import example
from ..build.optimizers import OPTIMIZERS
from ..build.planner import counted
from ..build.setup import Setup
from ..plan.predict import settled
from ..plan.rates import PARTS

LEAST, MOST = 0.01, 30
"""Seconds for which an operator is called, and how often at most; once at least."""
BESIDE = 2**25
"""Bytes of all else that a step goes through between two uses of a tensor: at most what a cache has."""
IMAGES = 4
"""For which it is seen how many of a convolution's inputs are not zero: where they are few it is done by events."""

Clocks = Tensor
"""Seconds by the clock, and of these on a core: `[2]`."""
Shares = dict[tuple[object, object], float]
"""Of inputs that are not zero, by `[C, H, W]` of the input and the shape of the weight."""


class Alone(NamedTuple):
    """Both clocks, `[2]` each, summed over the operators of a micro-batch in training by part, of one in evaluation,
    and of a step's end; and how many operators the first two are."""

    training: dict[str, Clocks]
    evaluation: Clocks
    end: Clocks
    operators: tuple[int, int]


def alone(setup: Setup, memory: Memory) -> Alone:
    """All ranks do it at once, and of each operator the slowest counts."""
    training, evaluation, peak = _calls(setup, memory)
    model = setup.model()
    shares = _shares(model, setup)
    beside = torch.zeros(min(peak, BESIDE) // 4)
    parts = {part: torch.zeros(2, dtype=torch.float64) for part in PARTS}
    tested, known = torch.zeros(2, dtype=torch.float64), {}
    for call in (*training, *evaluation):
        if call.key not in known:
            known[call.key] = _timed(_ready(call, shares), beside)
    for call in training:
        parts[call.part] += call.times * known[call.key]
    for call in evaluation:
        tested += call.times * known[call.key]
    end = _timed(_end(model, setup), beside)
    return Alone(parts, tested, end, (training.count, evaluation.count))


def _calls(setup: Setup, memory: Memory) -> tuple[Calls, Calls, int]:
    """Those of a micro-batch in training and in evaluation, and the bytes of the first at its peak."""
    config, plan, model = setup.config, setup.plan, setup.outline
    training, evaluation = Calls(), Calls()
    with torch.device("meta"), stands_for("cpu"):
        chosen = settled(model, config, plan, memory)
        cost = counted(model, config, plan, chosen.policy, chosen.borders, training)
        images, short = example(model, plan.micro_batch, "meta"), config.train.computes_in.short
        measure_evaluation(model, images, short, evaluation)
    return training, evaluation, cost.peak


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


def _ready(call: Call, shares: Shares) -> Callable[[], object]:
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


def _end(model: TDFormer, setup: Setup) -> Callable[[], object]:
    """What an optimizer step does after backward, with this process's share of weights and moments."""
    from ..train.engine import parameter_groups

    train, sharded = setup.config.train, setup.config.engine.zero_stage > 0
    groups = parameter_groups(model, train.weight_decay, train.layer_decay)
    trained = [p for p in model.parameters() if p.requires_grad]
    if sharded:
        own = sum(p.numel() for p in trained) // setup.plan.world
        trained = [nn.Parameter(torch.randn(own))]
        groups = [{**groups[0], "params": trained}]
    optimizer = OPTIMIZERS.get(train.optimizer).make(groups, train)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    weights = [p.detach() for p in model.parameters()] if train.ema_decay else []
    average = [weight.clone() for weight in weights]

    def end() -> None:
        total = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if train.clip_grad:
            torch.nn.utils.clip_grads_with_norm_(trained, train.clip_grad, total)
        optimizer.step()
        if average:
            torch._foreach_lerp_(average, weights, 1 - train.ema_decay)

    return end


def _timed(run: Callable[[], object], beside: Tensor) -> Clocks:
    """Of one call. Of what a step reads, some was written just before, and some long ago: the mean of both, where a
    cache has the tensors still, and where it has others."""
    dist.barrier()
    run()
    near: list[Clocks] = []
    far: list[Clocks] = []
    begun = time.perf_counter()
    while not far or (len(far) < MOST and time.perf_counter() - begun < LEAST):
        near.append(_once(run))
        beside.add_(1)
        far.append(_once(run))
    seconds = (torch.stack(near).median(0).values + torch.stack(far).median(0).values) / 2
    dist.all_reduce(seconds, dist.ReduceOp.MAX)
    return seconds


def _once(run: Callable[[], object]) -> Clocks:
    begun = time.perf_counter(), time.process_time()
    run()
    return torch.tensor([time.perf_counter() - begun[0], time.process_time() - begun[1]], dtype=torch.float64)
