"""Seconds of a byte of what a step does among much else, timed alone: steps of one model have all of it in one
proportion."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn

from tdformer import kernels
from tdformer.kernels import Drive, Means, Norm
from tdformer.measure import Work, live_bytes
from tdformer.options import NeuronOptions

from ..plan.rates import Alone

SHAPE = (4, 4, 64, 32, 32)
"""T, B, C, H, W of the tensors: 4 MB each."""
ROUNDS, LEAST = 5, 0.02
"""Of which the median counts, and the seconds of one."""

Call = Callable[[], object]


def alone() -> tuple[Alone, Alone]:
    """By the clock, and of it what a process was on a core; all ranks do it at once, and the slowest counts."""
    sums, neuron = (_work(call) for call in _calls("meta"))
    moved = sums.other_bytes, neuron.neuron_bytes
    found = [[seconds / size for seconds in _timed(call)] for call, size in zip(_calls("cpu"), moved, strict=True)]
    slowest = torch.tensor(found, dtype=torch.float64)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    by_clock, by_cores = slowest.T.tolist()
    return Alone(*by_clock), Alone(*by_cores)


def _calls(device: str) -> tuple[Call, Call]:
    """A sum, and the neuron's kernels in both directions."""
    x, y = torch.rand(SHAPE, device=device), torch.rand(SHAPE, device=device)
    written, one = y.clone(), torch.ones(SHAPE[2], device=device)
    norm, zeros = Norm(0 * one, one, 4 * one, 0 * one), Means(0 * one, 0 * one)
    drive = Drive(y, norm, None, one / 2, NeuronOptions())

    def neuron() -> None:
        kernels.statistics(y.flatten(0, 1))
        kernels.fire(drive, len(y))
        found = kernels.fire_backward(drive, x, None)
        kernels.norm_backward(drive._replace(y=written), x, None, found, zeros, True)

    return lambda: x + y, neuron


def _work(call: Call) -> Work:
    with live_bytes(nn.Identity()) as live:
        call()
    return live.work


def _timed(call: Call) -> tuple[float, float]:
    """Seconds of one, and those on a core."""
    call()
    found = []
    for _ in range(ROUNDS):
        dist.barrier()
        times, begun = 0, (time.perf_counter(), time.process_time())
        while not times or time.perf_counter() - begun[0] < LEAST:
            call()
            times += 1
        found.append(((time.perf_counter() - begun[0]) / times, (time.process_time() - begun[1]) / times))
    by_clock, by_cores = (statistics.median(column) for column in zip(*found, strict=True))
    return by_clock, by_cores
