"""What passes between the ranks in a step, and how long it takes: alpha seconds a message and beta seconds a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import nn

from tdformer.norm import BatchNorm

from ..build import planner
from ..config import BatchPlan


class Counted(NamedTuple):
    """Of a step, what does not follow from the network's sizes. gathers: all_gathers of weights; norms: all_reduces of
    two numbers; waits: how often the host reads a value of the device, and so waits for it."""

    gathers: int
    norms: int
    waits: int


COUNTED = (Counted(0, 0, 2), Counted(2, 2, 3), Counted(2, 2, 3))
"""By ZeRO stage, on two ranks and more, as `python -m benchmarks.collectives` counted them. ZeRO 3 gathers weights
while it computes, which nothing here models."""


@dataclass(frozen=True)
class Rule:
    """The collectives of a step as they follow from a network: bytes that a rank gives to each.

    gradients: each bucket, in the order in which backward fills them; batchnorm: each normalisation's backward, where
    its batch is spread over ranks, and half of its forward, which is in double precision; segments: of the T time
    steps, over which a gradient is a sum."""

    gradients: tuple[int, ...]
    batchnorm: tuple[int, ...]
    segments: int

    @property
    def parameters(self) -> int:
        """Bytes of all gradients."""
        return sum(self.gradients)

    @classmethod
    def of(cls, model: nn.Module, segments: int, bucket: int | None = None) -> Rule:
        """That of a model, which may be on meta. bucket: elements, those of `planner` if None."""
        sizes = [p.numel() for p in model.parameters()]
        units = [m.weight.numel() for m in model.modules() if isinstance(m, BatchNorm) and m.weight is not None]
        return cls(
            _buckets(sizes[::-1], planner.bucket(model) if bucket is None else bucket),
            tuple(8 * channels for channels in units) * segments,  # two numbers a channel
            segments,
        )

    @classmethod
    def even(cls, parameters: int, segments: int = 1) -> Rule:
        """That of a network of which only the number of parameters is known: full buckets, BatchNorm on a rank."""
        full, rest = divmod(parameters, planner.BUCKET)
        return cls((4 * planner.BUCKET,) * full + ((4 * rest,) if rest else ()), (), segments)


def _buckets(sizes: Sequence[int], bucket: int) -> tuple[int, ...]:
    """Bytes of each: parameters as backward comes to them, as long as there is room."""
    found = [0]
    for size in sizes:
        if found[-1] + 4 * size > 4 * bucket:
            found.append(0)
        found[-1] += 4 * size
    return tuple(found)


class Model(Protocol):
    """What tells the seconds of a collective."""

    @property
    def wait(self) -> float:
        """Seconds that a device stands idle after the host has waited for it."""

    def seconds(self, size: float, ranks: int, allreduce: bool) -> float:
        """size: bytes that each rank gives; allreduce: else an all_gather. 0 on one rank."""


@dataclass(frozen=True)
class AlphaBeta:
    """A ring over one kind of link: of p ranks, an all_reduce of S bytes takes 2 (p - 1) (alpha + S beta / p) seconds
    and an all_gather of S bytes from each (p - 1) (alpha + S beta).

    alpha: seconds of a message; beta: seconds of a byte. This is what processes of one machine are fitted with."""

    alpha: float
    beta: float
    wait: float = 0.0

    def seconds(self, size: float, ranks: int, allreduce: bool) -> float:
        if allreduce:
            return 2 * (ranks - 1) * (self.alpha + size * self.beta / ranks)
        return (ranks - 1) * (self.alpha + size * self.beta)


@dataclass(frozen=True)
class Network:
    """Nodes of GPUs by NCCL's own model (`src/graph/tuning.cc`, constants of 2.28: a base, hops over NVLink
    and over the network, bytes by bus bandwidth; the better of ring and tree, of the protocols LL and Simple).

    node: GPUs of one. nvlink, net: bytes/s of a GPU in one direction (450 GB/s of an H100's datasheet; 400 Gb/s), of
    which the share `reached` arrives (assumed). Between nodes a byte is taken to pass one GPU's own 50 GB/s; NCCL uses
    all 8 of a node at once, so this is an upper bound of the time. switch: seconds from the computing stream to NCCL's
    and back, two events and a launch (assumed). wait: seconds that the GPU stands idle after the host has waited for
    it, until there is work again (assumed)."""

    node: int = 8
    nvlink: float = 450e9
    net: float = 50e9
    reached: float = 0.8
    switch: float = 10e-6
    wait: float = 50e-6

    def seconds(self, size: float, ranks: int, allreduce: bool) -> float:
        if ranks == 1:
            return 0.0
        nodes = -(-ranks // self.node)
        local, times = ranks // nodes, 2 if allreduce else 1
        moved = times * size * (ranks - 1) / (ranks if allreduce else 1)
        rate = self.reached * (self.net if nodes > 1 else self.nvlink)
        base, hop, over = 6.6e-6, (1.0e-6 if nodes > 1 else 0.6e-6), 2.7e-6
        low = base + times * ((ranks - nodes) * hop + (nodes - 1) * over) + moved / (rate / 2)
        base, hop, over = 8.4e-6, 3.4e-6, 14e-6
        simple = base + times * ((ranks - nodes) * hop + (nodes - 1) * over) + moved / rate
        tree = math.inf
        if allreduce:
            tree = 6.8e-6 + 2 * ((local - 1) * 0.6e-6 + math.log2(nodes) * 5e-6) + 2 * size / (rate / 3.8)
            large = 8.4e-6 + 2 * ((local - 1) * 4e-6 + math.log2(nodes) * 14e-6) + 2 * size / (rate * 0.92)
            tree = min(tree, large)
        return min(low, simple, tree) + self.switch


BACKWARD = 2 / 3
"""Of a step's computing, backward's share: two products of matrices for one of forward."""


def exposed(rule: Rule, network: Model, ranks: int, group: int, compute: float, counted: Counted) -> float:
    """Seconds of a step in which a rank does nothing but wait for others.

    ranks: all; group: those that share a norm batch (1: BatchNorm stays on a rank); compute: seconds of forward and
    backward of a step's last micro-batch, behind which gradients are summed. A gradient is whole when backward comes to
    the first segment, so 2/3 of `compute` over the segments hides all buckets but the last."""
    seconds = counted.waits * network.wait
    if ranks == 1:
        return seconds
    if group > 1:
        seconds += sum(
            network.seconds(2 * size, group, True) + network.seconds(size, group, True) for size in rule.batchnorm
        )
    *early, last = [network.seconds(size, ranks, True) for size in rule.gradients]
    seconds += max(0.0, sum(early) - compute * BACKWARD / rule.segments) + last
    if counted.gathers:
        share = rule.parameters / counted.gathers / ranks
        seconds += counted.gathers * network.seconds(share, ranks, False)
    seconds += counted.norms * network.seconds(8, ranks, True)
    return seconds + network.seconds(2 * sum(rule.batchnorm), ranks, True)  # running statistics, in double precision


def waits(rule: Rule, network: Model, plan: BatchPlan, compute: float, counted: Counted) -> tuple[float, float]:
    """Seconds of a step in which a rank waits for BatchNorm's sums, and for gradients. compute: of a micro-batch; for
    the rest see `exposed`."""
    gradients = exposed(rule, network, plan.world, 1, compute, counted)
    norm = exposed(rule, network, plan.world, plan.norm_ranks, compute, counted) - gradients
    return plan.accumulation * norm, gradients
