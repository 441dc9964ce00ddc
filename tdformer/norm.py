"""BatchNorm for segments of time: statistics over (T/N steps x batch), updated exactly once a forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import kernels
from .kernels import Norm

_frozen = False
_M = TypeVar("_M", bound=nn.Module)


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Leave all running statistics as they are: recomputation sees a batch that was already counted."""
    global _frozen
    before, _frozen = _frozen, True
    try:
        yield
    finally:
        _frozen = before


def is_recomputing() -> bool:
    """Whether the pass that runs now was already counted."""
    return _frozen


class BatchNorm(nn.Module):
    """The parameters and statistics of a BatchNorm with eps 1e-5 and momentum 0.1 as in the backbones.

    It has no forward of its own: its affine part is computed with the pooling and the neuron that follow.
    segments: how many sets of running statistics to keep, `[segments, C]`; weight and bias are shared. The first
    segment starts from empty membranes and has no feedback, so its currents are distributed differently.
    synchronised: batch statistics over all ranks of the default process group (works on gloo and on NCCL).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, segments: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(segments, channels))
        self.register_buffer("running_var", torch.ones(segments, channels))
        self.eps, self.momentum, self.synchronised = 1e-5, 0.1, False

    @torch.no_grad()
    def measure(self, y: Tensor, segment: int) -> tuple[Norm, float]:
        """y `[M, C, ...]` of segment number `segment` -> how to normalise it, and over how many values a channel the
        statistics were taken (0: they are the running ones). In training the running statistics move."""
        row = min(segment, self.running_mean.shape[0] - 1)
        running = self.running_mean[row], self.running_var[row]
        if not self.training:
            return self._norm(*running), 0.0
        mean, var = kernels.statistics(y)
        count = y.numel() / y.shape[1]
        if self._over_ranks():
            mean, var, count = _joined(mean, var, count)
        if not _frozen:
            running[0].lerp_(mean.to(running[0].dtype), self.momentum)
            running[1].lerp_((var * (count / max(1.0, count - 1))).to(running[1].dtype), self.momentum)
        return self._norm(mean, var), count

    def mean_gradients(self, total: Tensor, total_normal: Tensor, count: float) -> tuple[Tensor, Tensor]:
        """Sums over this rank's batch -> their means over the whole of it, which BatchNorm's gradient subtracts."""
        if not count:
            return torch.zeros_like(total), torch.zeros_like(total)
        if self._over_ranks():
            both = torch.stack([total, total_normal])
            dist.all_reduce(both)
            total, total_normal = both
        return total / count, total_normal / count

    def _norm(self, mean: Tensor, var: Tensor) -> Norm:
        invstd = (var + self.eps).rsqrt()
        scale = self.weight * invstd
        return Norm(mean, invstd, scale, self.bias - mean * scale)

    def _over_ranks(self) -> bool:
        return self.training and self.synchronised and dist.is_initialized() and dist.get_world_size() > 1


class Folded(nn.Module):
    """What is left of a BatchNorm in evaluation: a scale and a shift for each channel and set of statistics."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        rows = [norm._norm(mean, var) for mean, var in zip(norm.running_mean, norm.running_var, strict=True)]
        for name, values in zip(("scale", "shift"), ([r.scale for r in rows], [r.shift for r in rows]), strict=True):
            self.register_buffer(name, torch.stack(values).detach())
        self.weight = self.bias = None

    def measure(self, y: Tensor, segment: int) -> tuple[Norm, float]:
        row = min(segment, len(self.scale) - 1)
        return Norm(self.shift[row], self.scale[row], self.scale[row], self.shift[row]), 0.0


def fold(model: _M) -> _M:
    """A copy of a model for evaluation alone, each BatchNorm folded into the multiplication before its neuron."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                setattr(module, name, Folded(child))
    return model


def _joined(mean: Tensor, var: Tensor, count: float) -> tuple[Tensor, Tensor, float]:
    """Mean, biased variance and count over all ranks, from each rank's own."""
    mine = torch.cat([mean, var, mean.new_full((1,), count)])
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    joint = (means * counts).sum(0) / total
    return joint, ((variances + (means - joint).square()) * counts).sum(0) / total, float(total)


def synchronise(model: nn.Module, on: bool = True) -> None:
    """Take the batch statistics of every BatchNorm in `model` over all ranks."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synchronised = on
