"""The kernels on the meta device: what they would allocate, and how many bytes they would move. Memory and time are
planned with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from .protocol import Drive, Gradients, Means, Norm

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Told:
    """Who is told of a call: how many bytes it moves, and its name and arguments."""

    moved: Callable[[int], None] | None = None
    called: Callable[[str, tuple[object, ...]], None] | None = None


@contextmanager
def watched(moved: Callable[[int], None], called: Callable[[str, tuple[object, ...]], None]) -> Iterator[None]:
    """Meanwhile each call tells how many bytes the GPU's kernels would read and write, and what was called."""
    before = _Told.moved, _Told.called
    _Told.moved, _Told.called = moved, called
    try:
        yield
    finally:
        _Told.moved, _Told.called = before


def _moves(*tensors: Tensor | None) -> None:
    if _Told.moved is not None:
        _Told.moved(sum(t.nbytes for t in tensors if t is not None))


def _told(kernel: Callable[_P, _R]) -> Callable[_P, _R]:
    @wraps(kernel)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if _Told.called is not None:
            _Told.called(kernel.__name__, args)
        return kernel(*args, **kwargs)

    return call


@_told
def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    _moves(y)
    return y.new_empty(y.shape[1], dtype=torch.float32), y.new_empty(y.shape[1], dtype=torch.float32)


@_told
def fire(drive: Drive, steps: int) -> tuple[Tensor, Tensor]:
    spikes = drive.y.new_empty(steps, *_image(drive))
    after = spikes.new_empty(spikes.shape[1:], dtype=torch.float32)
    _moves(drive.y, drive.membrane, spikes, after)
    return spikes, after


@_told
def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    grad = drive.y.new_empty(len(drive.y), *_image(drive), dtype=torch.float32)
    before = None if drive.membrane is None else torch.empty_like(drive.membrane)
    _moves(drive.y, drive.membrane, grad_spikes, grad_membrane, grad, grad, grad, before)  # potentials lie in its place
    return Gradients(grad, before, *grad.new_empty(3, drive.y.shape[2]))


@_told
def norm_backward(y: Tensor, norm: Norm, grad: Tensor, means: Means, pool: bool) -> Tensor:
    _moves(y, y, grad)
    return y


def _image(drive: Drive) -> list[int]:
    """B, C, h, w."""
    *front, height, width = drive.y.shape[1:]
    return [*front, (height + 1) // 2, (width + 1) // 2] if drive.pool else [*front, height, width]
