"""The fused neuron: BatchNorm's affine part, max pooling and the steps of the neuron in one pass, and its gradient.

`reference` is plain PyTorch; `cpu` (numba) and `gpu` (Triton) are held to it by tests; `meta` allocates and computes
nothing. Which one runs is chosen by where a tensor lies and by its type; `protocol` says what each of them computes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import typed
from . import attention, meta, nhwc, reference
from .attention import Products
from .layout import channels_last, empty, interpreted, laid, standing, stands_for
from .protocol import Adder, Backend, Drive, Fired, Gradients, Means, Norm, Packer
from .reference import real

__all__ = [
    "ARITHMETIC",
    "Backend",
    "Drive",
    "Fired",
    "Gradients",
    "Means",
    "Norm",
    "add_pack",
    "affine",
    "by_operators",
    "channels_last",
    "convolve",
    "convolve_backward",
    "empty",
    "fire",
    "fire_backward",
    "laid",
    "largest_integer",
    "norm_backward",
    "of",
    "pack",
    "product",
    "product_backward",
    "real",
    "standing",
    "stands_for",
    "statistics",
    "unpack",
]


ARITHMETIC = {"cpu": 3, "cuda": 4}
"""By the kind of device, counted up where the last bit of what is computed there changes. 2: BatchNorm's affine part is
rounded once; 3: a GPU's channels lie last, and sums go over them in another order; on a CPU a bias before BatchNorm has
its gradient where a second input is added; 4: a GPU's products of heads in fp32 are cuBLAS's."""


def chosen(x: Tensor) -> Backend:
    """The kernels for a tensor: Triton's on CUDA, numba's on CPU, PyTorch's for fp64 and wherever a library lacks.

    TDFORMER_KERNELS=reference takes PyTorch's everywhere, and gpu Triton's on CPU where that interprets them
    (TRITON_INTERPRET=1).
    """
    if x.is_meta:
        return meta
    return reference if real(x).itemsize == 8 else of(x.device.type)


def of(device: str) -> Backend:
    """The kernels for a kind of device, `cuda` or `cpu`, where values have at most 32 bits."""
    if os.environ.get("TDFORMER_KERNELS") == "reference":
        return reference
    return _load("cuda" if interpreted() else device)


@lru_cache
def _load(device: str) -> Backend:
    if device == "cuda" and find_spec("triton"):
        from . import gpu

        return gpu
    if device == "cpu" and find_spec("numba"):
        from . import cpu

        return cpu
    return reference


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    return chosen(y).statistics(y)


def affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
    return chosen(mean).affine(mean, var, weight, bias, eps)


def fire(drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
    return chosen(drive.y).fire(drive, steps, bits, last)


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    return chosen(drive.y).fire_backward(drive, grad_spikes, grad_membrane)


def norm_backward(
    drive: Drive,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    found: Gradients,
    means: Means,
    spare: bool,
) -> Tensor:
    return chosen(drive.y).norm_backward(drive, grad_spikes, grad_membrane, found, means, spare)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x `[M, C, H, W]`, weight `[C', C, k, k]`, taken in x's type -> `[M, C', H', W']`; on CPU by events where x is
    sparse."""
    if channels_last(x):
        return nhwc.convolve(x, weight, bias, stride, padding)
    weight = typed(weight, x.dtype)
    x, stride = _thinned(x, weight, stride)
    if x.device.type == "cpu" and chosen(x) is not reference:
        from . import sparse

        events = sparse.events_of(x, weight, stride, padding)
        if events is not None:
            return events.convolve(weight.detach(), bias)
    return F.conv2d(x, weight, bias, stride, padding)


def convolve_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    needs: Sequence[bool],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """d/dx, d/d weight and d/d bias of `convolve`, as far as `needs` says. dtype: that d/d weight is wanted in, where a
    backend can add it up in that; None: the weight's."""
    if channels_last(x):
        return nhwc.convolve_backward(grad, x, weight, stride, padding, needs, dtype or weight.dtype)
    weight, whole, given = typed(weight, x.dtype), x, stride
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


def product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    y: Tensor = torch.ops.tdformer.product(q, k, v, heads, scale)
    return y


def product_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.tdformer.product_backward(grad, q, k, v, heads, scale)
    return made


def by_operators(x: Tensor, heads: int) -> bool:
    """Whether attention's products of x are several of PyTorch's operators, which copy heads, and no program: of more
    than 16 bits, for which a GPU has no matrix units, and of more than 128 channels a head. A program has all of a head
    in registers, which would not do: 2,528 bytes a thread went into memory of heads of 64 in fp32."""
    return _products(x, heads) is attention


def _product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    return _products(q, heads).product(q, k, v, heads, scale)


def _product_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _products(q, heads).product_backward(grad, q, k, v, heads, scale)


def _products(x: Tensor, heads: int) -> Products:
    if x.itemsize > 2 or x.shape[2] > 128 * heads:
        return attention
    if x.is_meta:
        return meta
    if chosen(x) is reference:
        return attention
    if interpreted() and x.dtype == torch.bfloat16:  # the interpreter multiplies its bits as integers
        return attention
    from . import attention_gpu

    return attention_gpu


attention.operators.impl("product", _product, "CompositeExplicitAutograd")
attention.operators.impl("product_backward", _product_backward, "CompositeExplicitAutograd")


def largest_integer(x: Tensor) -> int | None:
    return None if x.is_meta else reference.largest_integer(x)


def pack(x: Tensor, bits: int) -> Tensor:
    return _packer(x).pack(x, bits)


def add_pack(x: Tensor, y: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """See `protocol.Adder`; by two calls where a packer cannot add."""
    packer = _packer(x)
    if isinstance(packer, Adder):
        return packer.add_pack(x, y, bits)
    total = x + y
    return total, packer.pack(total, bits)


def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    return _packer(data).unpack(data, bits, count, dtype)


def _packer(x: Tensor) -> Packer:
    if x.is_meta:
        return meta
    if x.device.type == "cpu" and not interpreted():
        return _numba()
    return reference if os.environ.get("TDFORMER_KERNELS") == "reference" else _triton()


@lru_cache
def _numba() -> Packer:
    if not find_spec("numba"):
        return reference
    from . import cpu

    return cpu


@lru_cache
def _triton() -> Packer:
    if not find_spec("triton"):
        return reference
    from . import gpu_packing

    return gpu_packing
