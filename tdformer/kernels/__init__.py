"""The fused neuron: BatchNorm's affine part, max pooling and the steps of the neuron in one pass, and its gradient.

`reference` is plain PyTorch; `cpu` (numba) and `gpu` (Triton) are held to it by tests. Which one runs is chosen by
where a tensor lies and by its type; the functions are documented in `reference`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference, shapes
from .reference import Gradients, Norm, real

__all__ = [
    "Gradients",
    "Norm",
    "convolve",
    "convolve_backward",
    "current",
    "current_backward",
    "fire",
    "fire_backward",
    "largest_integer",
    "norm_backward",
    "of",
    "pack",
    "real",
    "statistics",
    "unpack",
]


def chosen(x: Tensor) -> Any:
    """The kernels for a tensor: Triton's on CUDA, numba's on CPU, PyTorch's for fp64 and wherever a library lacks.

    TDFORMER_KERNELS=reference takes PyTorch's everywhere.
    """
    if x.is_meta:
        return shapes
    return reference if real(x).itemsize == 8 else of(x.device.type)


def of(device: str) -> Any:
    """The kernels for a kind of device, `cuda` or `cpu`, where values have at most 32 bits."""
    return reference if os.environ.get("TDFORMER_KERNELS") == "reference" else _load(device)


@lru_cache
def _load(device: str) -> Any:
    library, name = {"cuda": ("triton", "gpu"), "cpu": ("numba", "cpu")}.get(device, ("", ""))
    return import_module(f".{name}", __name__) if library and find_spec(library) else reference


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    return chosen(y).statistics(y)


def fire(y: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return chosen(y).fire(y, *rest)


def fire_backward(y: Tensor, *rest: Any) -> Gradients:
    return chosen(y).fire_backward(y, *rest)


def norm_backward(y: Tensor, *rest: Any) -> Tensor:
    return chosen(y).norm_backward(y, *rest)


def current(y: Tensor, *rest: Any) -> Tensor:
    return reference.current(y, *rest)


def current_backward(y: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return reference.current_backward(y, *rest)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x `[M, C, H, W]`, weight `[C', C, k, k]` -> `[M, C', H', W']`; on CPU by events where x is sparse."""
    x, stride = _thinned(x, weight, stride)
    if x.device.type == "cpu" and chosen(x) is not reference:
        events = import_module(".events", __name__).events_of(x, weight, stride, padding)
        if events is not None:
            return events.convolve(weight.detach(), bias)
    return F.conv2d(x, weight, bias, stride, padding)


def convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """d/dx, d/d weight and d/d bias of `convolve`, as far as `needs` says."""
    whole, given = x, stride
    x, stride = _thinned(x, weight, stride)
    grad_x, grad_w, grad_b = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [weight.shape[0]],
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        1,
        list(needs),
    )
    if grad_x is not None and x is not whole:
        thin, grad_x = grad_x, torch.zeros_like(whole)
        grad_x[:, :, ::given, ::given] = thin
    return grad_x, grad_w, grad_b


def _thinned(x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, int]:
    """A 1 x 1 convolution with a stride is one without, of fewer pixels: its gradient is 10 times faster that way."""
    if stride == 1 or weight.shape[2] != 1:
        return x, stride
    return x[:, :, ::stride, ::stride].contiguous(), 1


def largest_integer(x: Tensor) -> int | None:
    return None if x.is_meta else reference.largest_integer(x)


def pack(x: Tensor, bits: int) -> Tensor:
    return _packer(x).pack(x, bits)


def unpack(data: Tensor, *rest: Any) -> Tensor:
    return _packer(data).unpack(data, *rest)


def _packer(x: Tensor) -> Any:
    return _load("cpu") if x.device.type == "cpu" else reference
