"""BatchNorm for segments of time: statistics over (T/N steps x norm batch), counted exactly once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import kernels
from .errors import ModelError
from .kernels import Norm

_frozen = False
_collecting: StepStatistics | None = None
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


class StepStatistics:
    """What the forward passes of one optimizer step measured, of each BatchNorm and segment: the running statistics
    move by its mean once, however the global batch was cut. Nothing is computed before `means`, and there for all of
    them at once: on a GPU a launch for each would cost more than the arithmetic."""

    def __init__(self) -> None:
        self._found: dict[tuple[BatchNorm, int], list[tuple[Tensor, Tensor, float]]] = {}

    def add(self, norm: BatchNorm, segment: int, mean: Tensor, var: Tensor, correction: float) -> None:
        """One norm batch: mean and biased variance `[C]`, and what to multiply that by to make it unbiased."""
        self._found.setdefault((norm, segment), []).append((mean, var, correction))

    def means(self) -> Tensor:
        """All of them behind one another `[n]`, first the means, then the variances, for an average over ranks."""
        if not self._found:
            return torch.zeros(0)
        total: Tensor | None = None
        rounds = list(zip(*self._found.values(), strict=True))  # each pass goes through every BatchNorm
        for found in rounds:
            mean, var, correction = zip(*found, strict=True)
            both = torch.cat([*mean, *torch._foreach_mul(var, correction)])
            total = both if total is None else total.add_(both)
        assert total is not None
        return total.div_(len(rounds)) if len(rounds) > 1 else total

    @torch.no_grad()
    def move(self, means: Tensor) -> None:
        """Move the running statistics towards `means`, which are those of `means()` or their average over ranks."""
        parts = means.split([norm.running_mean.shape[1] for norm, _ in self._found] * 2)
        pairs: dict[tuple[int, float], tuple[list[Tensor], list[Tensor]]] = {}
        for i, (norm, segment) in enumerate(self._found):  # segments may share a row, which then moves by one at a time
            running, values = pairs.setdefault((segment, norm.momentum), ([], []))
            running += norm.rows(segment)
            values += [parts[i].to(running[-2].dtype), parts[i + len(self._found)].to(running[-1].dtype)]
        for (_, momentum), (running, values) in sorted(pairs.items(), key=lambda pair: pair[0]):
            torch._foreach_lerp_(running, values, momentum)


@contextmanager
def step_statistics() -> Iterator[StepStatistics]:
    """Forward passes meanwhile move no running statistics; what they measured is collected, to be moved by once."""
    global _collecting
    before, _collecting = _collecting, StepStatistics()
    try:
        yield _collecting
    finally:
        _collecting = before


class BatchNorm(nn.Module):
    """The parameters and statistics of a BatchNorm with eps 1e-5 and momentum 0.1 as in the backbones.

    It has no forward of its own: its affine part is computed with the pooling and the neuron that follow.
    segments: how many sets of running statistics to keep, `[segments, C]`; weight and bias are shared. The first
    segment starts from empty membranes and has no feedback, so its currents are distributed differently.
    affine: whether it has a weight and a bias; without, both are None. images, ranks: see `norm_batch`. frozen: it
    stays in evaluation mode, with the running statistics as they are.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, segments: int = 1, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.register_buffer("running_mean", torch.zeros(segments, channels))
        self.register_buffer("running_var", torch.ones(segments, channels))
        self.eps, self.momentum = 1e-5, 0.1
        self.images: int | None = None
        self.ranks: dist.ProcessGroup | None = None
        self.frozen = False
        self.in_step = True

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless it is frozen; whether the model is in it says `in_step`."""
        self.in_step = mode
        return super().train(mode and not self.frozen)

    def is_parted(self, batch: int) -> bool:
        """Whether a batch of the model's training is more than one norm batch, also where this one is frozen."""
        return self.in_step and self.images is not None and batch > self.images

    def groups(self, batch: int) -> list[slice]:
        """The images of a batch that are normalised together. Raises ModelError where they do not divide it."""
        if not self.training or self.images is None or batch <= self.images:
            return [slice(0, batch)]
        if batch % self.images:
            raise ModelError(f"{batch} images are not made of norm batches of {self.images}; choose a multiple")
        return [slice(i, i + self.images) for i in range(0, batch, self.images)]

    @torch.no_grad()
    def measure(self, y: Tensor, segment: int) -> tuple[Norm, float]:
        """y `[..., C, H, W]` of one group, in segment number `segment` -> how to normalise it, and over how many values
        a channel the statistics were taken (0: they are the running ones). In training the running statistics move, or
        `step_statistics` takes note."""
        if not self.training:
            return self._norm(*self.rows(segment)), 0.0
        mean, var = kernels.statistics(y)
        count = y.numel() / y.shape[-3]
        if self.ranks is not None:
            mean, var = _joined(mean, var, self.ranks)
            count *= self.ranks.size()
        if not _frozen:
            correction = count / max(1.0, count - 1)
            if _collecting is None:
                for running, value in zip(self.rows(segment), (mean, var * correction), strict=True):
                    running.lerp_(value.to(running.dtype), self.momentum)
            else:
                _collecting.add(self, segment, mean, var, correction)
        return self._norm(mean, var), count

    def rows(self, segment: int) -> tuple[Tensor, Tensor]:
        """The running mean and variance `[C]` of a segment."""
        row = self._row(segment)
        return self.running_mean[row], self.running_var[row]

    def mean_gradients(self, total: Tensor, total_normal: Tensor, count: float) -> tuple[Tensor, Tensor]:
        """Sums over a group's images on this rank -> their means over the whole group, which BatchNorm's gradient
        subtracts."""
        if not count:
            return torch.zeros_like(total), torch.zeros_like(total)
        if self.ranks is not None:
            both = torch.stack([total, total_normal])
            dist.all_reduce(both, group=self.ranks)
            total, total_normal = both
        grad, grad_normal = torch._foreach_div((total, total_normal), count)
        return grad, grad_normal

    def _row(self, segment: int) -> int:
        return min(segment, self.running_mean.shape[0] - 1)

    def _norm(self, mean: Tensor, var: Tensor) -> Norm:
        return kernels.affine(mean, var, self.weight, self.bias, self.eps)


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

    def groups(self, batch: int) -> list[slice]:
        return [slice(0, batch)]

    def is_parted(self, batch: int) -> bool:
        return False

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


def _joined(mean: Tensor, var: Tensor, ranks: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over some ranks, from each rank's own, of equally many values: by their sums, because
    NCCL sums over a tree of nodes and gathers round a ring of all ranks. In double precision, where the square of an
    fp32 number is exact and what cancels is far below fp32's last bit, in whichever order ranks are summed."""
    both = torch.stack([mean, var]).double()
    both[1].addcmul_(both[0], both[0])
    dist.all_reduce(both, group=ranks)
    both /= ranks.size()
    both[1].addcmul_(both[0], both[0], value=-1).clamp_min_(0)
    joint, spread = both.to(mean.dtype)
    return joint, spread


def norm_batch(model: nn.Module, images: int | None, ranks: dist.ProcessGroup | None = None) -> None:
    """Say which images every BatchNorm of `model` takes its statistics over in training.

    images: so many that lie side by side in a batch; None: all of it. ranks: those whose batches, equally large, are
    together one such group (works on gloo and on NCCL); None: this process alone.
    """
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.images, module.ranks = images, ranks
