"""The fused neuron: BatchNorm's affine part, max pooling and the steps of the neuron in one pass, and its gradient.

`reference` is plain PyTorch; `cpu` (numba) and `gpu` (Triton) are held to it by tests. Which one runs is chosen by
where a tensor lies and by its type; the functions are documented in `reference`.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from . import reference, shapes
from .reference import Gradients, Norm, real

__all__ = [
    "Gradients",
    "Norm",
    "current",
    "current_backward",
    "fire",
    "fire_backward",
    "largest_integer",
    "norm_backward",
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
    if real(x).itemsize == 8 or os.environ.get("TDFORMER_KERNELS") == "reference":
        return reference
    return _load(x.device.type)


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


def largest_integer(x: Tensor) -> int | None:
    return None if x.is_meta else reference.largest_integer(x)


def pack(x: Tensor, bits: int) -> Tensor:
    return _packer(x).pack(x, bits)


def unpack(data: Tensor, *rest: Any) -> Tensor:
    return _packer(data).unpack(data, *rest)


def _packer(x: Tensor) -> Any:
    return _load("cpu") if x.device.type == "cpu" else reference
