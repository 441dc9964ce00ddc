"""The kernels on the meta device: what those of the device it stands for would allocate, and how many bytes they would
move. Memory and time are planned with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from typing import ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from . import reference
from .layout import empty, standing
from .protocol import Drive, Fired, Gradients, Means, Norm, chunk_of

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Watch(Protocol):
    """What is told of calls."""

    def neuron(self, moved: int) -> None:
        """One of the neuron's kernels reads and writes so many bytes."""

    def packing(self, moved: int) -> None:
        """One of packing's does."""

    def kernel(self, name: str, args: tuple[object, ...]) -> AbstractContextManager[object]:
        """One of these is called, for the time of the context."""


_watch: Watch | None = None


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Meanwhile each call tells."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def _moves(*tensors: Tensor | None) -> None:
    if _watch is not None:
        _watch.neuron(_bytes(*tensors))


def _packs(*tensors: Tensor) -> None:
    if _watch is not None:
        _watch.packing(_bytes(*tensors))


def _told(kernel: Callable[_P, _R]) -> Callable[_P, _R]:
    @wraps(kernel)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if _watch is None:
            return kernel(*args, **kwargs)
        with _watch.kernel(kernel.__name__, args):
            return kernel(*args, **kwargs)

    return call


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.nbytes for t in tensors if t is not None)


@_told
def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    channels = y.shape[-3]
    if standing() == "cpu":
        y = y.flatten(0, -4)  # which copies a part of a batch
    _moves(y)
    return y.new_empty(channels, dtype=torch.float32), y.new_empty(channels, dtype=torch.float32)


def affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
    return Norm(mean, *torch.stack([mean, var, mean]))  # counted as what it is: a small operator


@_told
def fire(drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
    y, image, gpu = drive.y, _image(drive), standing() == "cuda"
    if drive.neuron is None and not gpu:
        return reference.fire(drive, steps)
    spikes = empty(y, steps if drive.neuron is not None else len(y), *image)
    packed = after = None
    if bits and gpu and y.shape[2] % 8 == 0:
        packed = y.new_empty(steps, len(spikes[0]), spikes[0, 0].numel() // 8, dtype=torch.uint8)
    if drive.neuron is not None and not (last and gpu):
        after = empty(y, *image, dtype=torch.float32)
    _moves(y, drive.membrane, spikes, packed, after)
    return Fired(spikes, after, packed)


@_told
def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    if standing() == "cpu":
        return _whole(drive, grad_spikes, grad_membrane)
    y, given = drive.y, drive.neuron is None
    make = partial(empty, y, len(y), *_image(drive))
    before = None if drive.membrane is None else torch.empty_like(drive.membrane)
    current = make() if not given and (drive.pool or drive.norm is None) else None
    winners = make(dtype=torch.uint8) if drive.pool and drive.norm is not None else None
    _moves(y, drive.membrane, grad_spikes, grad_membrane, current, winners, before, *_starts(drive, len(grad_spikes)))
    sums = y.new_empty(3, y.shape[2], dtype=torch.float32)
    return Gradients(grad_spikes if given and drive.pool else current, winners, before, *sums)


def _whole(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    """As on a CPU: d/d current is stored, in whose place the potentials lie first."""
    if drive.neuron is None:
        return reference.fire_backward(drive, grad_spikes, grad_membrane)
    grad = drive.y.new_empty(len(drive.y), *_image(drive), dtype=torch.float32)
    before = None if drive.membrane is None else torch.empty_like(drive.membrane)
    _moves(drive.y, drive.membrane, grad_spikes, grad_membrane, grad, grad, grad, before)
    return Gradients(grad, None, before, *grad.new_empty(3, drive.y.shape[2]))


@_told
def norm_backward(
    drive: Drive,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    found: Gradients,
    means: Means,
    spare: bool,
) -> Tensor:
    y = drive.y
    if standing() == "cpu":
        _moves(y, y, found.current)
        return y if spare else y.clone()
    out = y if spare else torch.empty_like(y)
    if found.winners is None:
        _moves(y, drive.membrane, grad_spikes, grad_membrane, out, *_starts(drive, len(grad_spikes)))
    else:
        _moves(y, found.current, found.winners, out)
    return out


@_told
def pack(x: Tensor, bits: int) -> Tensor:
    data = x.new_empty(len(x), -(-x[0].numel() * bits // 8), dtype=torch.uint8)
    _packs(x, data)
    return data


@_told
def add_pack(x: Tensor, y: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    total = torch.empty_like(x)
    data = x.new_empty(len(x), -(-x[0].numel() * bits // 8), dtype=torch.uint8)
    _packs(x, y, total, data)
    return total, data


@_told
def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    values = data.new_empty(len(data), count, dtype=dtype)
    _packs(data, values)
    return values


def product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    return torch.empty_like(q)  # counted as the operator that it is, as is its gradient


def product_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _starts(drive: Drive, steps: int) -> list[Tensor]:
    """The potentials between chunks of steps, which are written and read: twice the same."""
    between = steps // chunk_of(steps) - 1
    if drive.neuron is None or not between:
        return []
    return [empty(drive.y, between, *_image(drive), dtype=torch.float32)] * 2


def _image(drive: Drive) -> list[int]:
    """B, C, h, w."""
    *front, height, width = drive.y.shape[1:]
    return [*front, (height + 1) // 2, (width + 1) // 2] if drive.pool else [*front, height, width]
