"""How activations lie in memory. Their shape is `[T, B, C, H, W]` everywhere; on a GPU the channels of a pixel lie side
by side, a contiguous `[T, B, H, W, C]`: there convolutions, sums over channels and the neuron read it so. On CPU, where
a channel is one thread's work, a plane does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

_standing: str | None = None


@contextmanager
def stands_for(device: str) -> Iterator[None]:
    """Meanwhile the meta device stands for `cuda` or for `cpu`; else for a GPU where there is one."""
    global _standing
    before, _standing = _standing, device
    try:
        yield
    finally:
        _standing = before


def standing() -> str:
    """What the meta device stands for, `cuda` or `cpu`."""
    return _standing or _here()


@lru_cache
def _here() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def interpreted() -> bool:
    """Whether Triton's kernels, and a GPU's layout, are taken on CPU: TDFORMER_KERNELS=gpu with TRITON_INTERPRET=1."""
    return os.environ.get("TDFORMER_KERNELS") == "gpu" and os.environ.get("TRITON_INTERPRET") == "1"


def channels_last(x: Tensor) -> bool:
    """Whether activations lie channels last where x is: on CUDA, and on meta where it stands for that."""
    device = standing() if x.is_meta else x.device.type
    return device == "cuda" or (device == "cpu" and not x.is_meta and interpreted())


def laid(x: Tensor) -> Tensor:
    """x `[..., C, H, W]`, of four dimensions or more, as its device keeps activations: itself where it lies so, and
    where that is a CPU."""
    if not channels_last(x):
        return x
    moved = x.movedim(-3, -1)
    return x if moved.is_contiguous() else moved.contiguous().movedim(-1, -3)


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An activation `[..., C, H, W]` on like's device, as that keeps them; in like's type, or another."""
    *front, channels, height, width = shape
    if not channels_last(like):
        return like.new_empty(shape, dtype=dtype)
    return like.new_empty((*front, height, width, channels), dtype=dtype).movedim(-1, -3)
