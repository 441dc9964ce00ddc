"""BatchNorm for segments of time: statistics over (T/N steps x batch), updated exactly once a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

_frozen = False


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
    """BatchNorm over `[M, C, ...]`, M = steps x batch, with eps 1e-5 and momentum 0.1 as in the backbones.

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

    def forward(self, x: Tensor, segment: int) -> Tensor:
        """x `[M, C, ...]` of segment number `segment` -> the same shape."""
        row = min(segment, self.running_mean.shape[0] - 1)
        mean, var = self.running_mean[row], self.running_var[row]
        if _frozen and self.training:
            mean, var = mean.clone(), var.clone()
        if self.training and self.synchronised and dist.is_initialized() and dist.get_world_size() > 1:
            y, batch_mean, batch_var = _SyncNorm.apply(x, self.weight, self.bias, self.eps)
            with torch.no_grad():
                mean.lerp_(batch_mean, self.momentum)
                var.lerp_(batch_var, self.momentum)
            return y
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)


class _SyncNorm(torch.autograd.Function):
    """Batch normalisation over all ranks: gathers (mean, variance, count), reduces two sums in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        real = x.to(weight.dtype)
        local_var, local_mean = torch.var_mean(real, dims, correction=0)
        count = local_mean.new_full((1,), x.numel() / x.shape[1])
        mine = torch.cat([local_mean, local_var, count])
        every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(every, mine)
        means, variances, counts = torch.stack(every).split([x.shape[1], x.shape[1], 1], dim=1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        var = ((variances + (means - mean).square()) * counts).sum(0) / total
        scale = (var + eps).rsqrt()
        normal = (real - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, weight, scale, total)
        ctx.mark_non_differentiable(mean, unbiased := var * (total / (total - 1)))
        return (normal * weight.view(shape) + bias.view(shape)).to(x.dtype), mean, unbiased

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        grad = grads[0]
        normal, weight, scale, total = ctx.saved_tensors
        dims = [d for d in range(grad.dim()) if d != 1]
        shape = [1, -1] + [1] * (grad.dim() - 2)
        real = grad.to(weight.dtype)
        grad_bias, grad_weight = real.sum(dims), (real * normal).sum(dims)
        sums = torch.cat([grad_bias, grad_weight])
        dist.all_reduce(sums)
        mean_grad, mean_grad_normal = (sums / total).chunk(2)
        grad_x = (real - mean_grad.view(shape) - normal * mean_grad_normal.view(shape)) * (weight * scale).view(shape)
        return grad_x.to(grad.dtype), grad_weight, grad_bias, None


def synchronise(model: nn.Module, on: bool = True) -> None:
    """Take the batch statistics of every BatchNorm in `model` over all ranks."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synchronised = on
