"""What every kernel backend computes: the one signature of `reference`, `cpu`, `gpu` and `meta`.

T time steps, or S of them in what enters: S = T, or 1 for an input that is the same at each step. A unit's image has
H x W pixels behind the convolution and h x w behind the pooling. Tensors have these shapes and lie as `layout` says; a
backend takes them as they lie.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..options import NeuronOptions

CHUNK = 4
"""Time steps that a GPU's backward has in registers at once; of more it stores V at the first of each so many."""


@lru_cache
def chunk_of(steps: int) -> int:
    """The most steps, up to CHUNK, that divide them."""
    return next(n for n in range(min(CHUNK, steps), 0, -1) if steps % n == 0)


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
    stride 2, so that h and w are H and W halved and rounded up. Without a neuron, and so without decay, what comes out
    are the currents themselves, for which there is a norm.
    """

    y: Tensor
    norm: Norm | None
    membrane: Tensor | None
    decay: Tensor | None
    neuron: NeuronOptions | None
    pool: bool = False


class Fired(NamedTuple):
    """What `fire` returns: spikes `[T, B, C, h, w]`, or currents, in y's type; the last potential `[B, C, h, w]`; and
    the spikes at one bit each as `Packer` packs them, `[T, B, bytes]`. None: not asked for, or for bits: not made."""

    spikes: Tensor
    membrane: Tensor | None
    bits: Tensor | None = None


class Gradients(NamedTuple):
    """What `fire_backward` returns: d/d current `[S, B, C, h, w]`, None where `norm_backward` computes it again and
    there is a norm; which value of each window won, where `norm_backward` wants to know (a backend's own matter);
    d/d membrane `[B, C, h, w]` (None if there was none), d/d decay `[C]` (any value where decay needs no gradient),
    and two sums over the batch, `[C]`: of d/d current, and of it times the normal (any value where there is no
    norm)."""

    current: Tensor | None
    winners: Tensor | None
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
        """y `[M, C, H, W]`, or a part of a batch `[S, b, C, H, W]` -> mean and biased variance over all but C, each
        `[C]`."""

    def affine(self, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
        """How BatchNorm normalises by statistics `[C]`; weight and bias `[C]`, both or neither."""

    def fire(self, drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
        """Spikes over `steps` (Eqs 1-3). bits: they are also wanted packed; last: nobody wants the last potential."""

    def fire_backward(self, drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
        """The gradients of `fire`, for those of its spikes `[T, B, C, h, w]` and of the last potential `[B, C, h, w]`
        (None where nothing follows). The steps run once forward and once backward."""

    def norm_backward(
        self,
        drive: Drive,
        grad_spikes: Tensor,
        grad_membrane: Tensor | None,
        found: Gradients,
        means: Means,
        spare: bool,
    ) -> Tensor:
        """d/d y `[S, B, C, H, W]`, through neuron, pooling and BatchNorm: the second pass, when the sums of all of the
        batch are known, with the arguments of `fire_backward` and what that returned. spare: y is the caller's to
        lose, and may be written over."""


class Packer(Protocol):
    """Small integers in as few bits as they need."""

    def pack(self, x: Tensor, bits: int) -> Tensor:
        """x `[M, ...]`, integers below 2^bits -> uint8 `[M, bytes]`; the first value of a byte in its lowest bits."""

    def unpack(self, data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
        """uint8 `[M, bytes]` -> `[M, count]` in `dtype`."""


@runtime_checkable
class Adder(Protocol):
    """A packer that adds in the same pass."""

    def add_pack(self, x: Tensor, y: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """x + y `[M, ...]`, integers below 2^bits, and it packed."""
