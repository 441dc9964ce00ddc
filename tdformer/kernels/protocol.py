"""What every kernel backend computes: the one signature of `reference`, `cpu`, `gpu` and `meta`.

T time steps, or S of them in what enters: S = T, or 1 for an input that is the same at each step. A unit's image has
H x W pixels behind the convolution and h x w behind the pooling.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..options import NeuronOptions


class Norm(NamedTuple):
    """BatchNorm as the kernels see it, all `[C]` in fp32: normal = (y - mean) invstd, current = y scale + shift, which
    is rounded once as in PyTorch's BatchNorm on CPU."""

    mean: Tensor
    invstd: Tensor
    scale: Tensor
    shift: Tensor


class Drive(NamedTuple):
    """What drives the neurons of one segment, the same forward and backward.

    y `[S, B, C, H, W]`; membrane `[B, C, h, w]`, None at the start; decay 1 / tau `[C]`; pool: 3 x 3 max pooling with
    stride 2, so that h and w are H and W halved and rounded up.
    """

    y: Tensor
    norm: Norm | None
    membrane: Tensor | None
    decay: Tensor
    neuron: NeuronOptions
    pool: bool = False


class Gradients(NamedTuple):
    """What `fire_backward` returns: d/d current `[S, B, C, h, w]`, d/d membrane `[B, C, h, w]` (None if there was
    none), d/d decay `[C]` (any value where decay needs no gradient), and two sums over the batch, `[C]`: of d/d
    current, and of it times the normal (any value where there is no norm)."""

    current: Tensor
    membrane: Tensor | None
    decay: Tensor
    total: Tensor
    total_normal: Tensor


class Means(NamedTuple):
    """The sums `total` and `total_normal` of `Gradients`, `[C]`, divided by the number of values a channel (over all
    ranks if BatchNorm is synchronised), or 0 for running statistics."""

    grad: Tensor
    grad_normal: Tensor


class Backend(Protocol):
    """A module of the fused neuron: BatchNorm's affine part, max pooling, the neuron's steps, and their gradient."""

    __name__: str

    def statistics(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """y `[M, C, ...]` -> mean and biased variance over all but C, each `[C]`."""

    def affine(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
        """How BatchNorm normalises by statistics `[C]`; weight and bias `[C]`, both or neither."""

    def fire(self, drive: Drive, steps: int) -> tuple[Tensor, Tensor]:
        """Spikes `[T, B, C, h, w]` over `steps` in y's type, and the last potential `[B, C, h, w]` (Eqs 1-3)."""

    def fire_backward(self, drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
        """The gradients of `fire`, for those of its spikes `[T, B, C, h, w]` and of the last potential `[B, C, h, w]`
        (None where nothing follows). The steps run once forward and once backward."""

    def norm_backward(self, y: Tensor, norm: Norm, grad: Tensor, means: Means, pool: bool) -> Tensor:
        """d/d current, grad `[S, B, C, h, w]` -> d/d y `[S, B, C, H, W]`, through the pooling and BatchNorm; it may be
        written over y, so y is the caller's to lose."""


class Packer(Protocol):
    """Small integers in as few bits as they need."""

    def pack(self, x: Tensor, bits: int) -> Tensor:
        """x `[M, ...]`, integers below 2^bits -> uint8 `[M, bytes]`; the first value of a byte in its lowest bits."""

    def unpack(self, data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
        """uint8 `[M, bytes]` -> `[M, count]` in `dtype`."""
