"""Convolutions where channels lie last: cuDNN's of NHWC, and with a kernel of 1 one product over the pixels of all
images, `[M H W, C]`. Of an activation nothing is copied for them, but for a 1 x 1 convolution with a stride its pixels.

Weights are kept as `[C', C, k, k]`. A larger kernel takes them channels last, which is the same copy as the one into
the type of autocast, and gives their gradient back as they are kept, which is the same copy as the one into fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import typed
from .layout import laid


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """See `kernels.convolve`."""
    if weight.shape[2] > 1:
        y = F.conv2d(_image(x), _filter(weight, x.dtype), bias, stride, padding)
        return _seen(y) if y.is_meta else y  # meta does not know of cuDNN
    x = _thinned(x, stride)
    return _images(F.linear(_pixels(x), typed(weight.flatten(1), x.dtype), bias), x)


def convolve_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, needs: Sequence[bool], dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """See `kernels.convolve_backward`."""
    if weight.shape[2] > 1:
        grad_x, grad_w, grad_b = torch.ops.aten.convolution_backward(
            _image(grad),
            _image(x),
            _filter(weight, x.dtype),
            [weight.shape[0]],
            [stride, stride],
            [padding, padding],
            [1, 1],
            False,
            [0, 0],
            1,
            list(needs),
        )
        if grad_w is not None:
            grad_w = grad_w.to(dtype, memory_format=torch.contiguous_format)
        return grad_x, grad_w, grad_b
    rows, thin = _pixels(grad), _thinned(x, stride)
    grad_x = grad_w = grad_b = None
    if needs[0]:
        grad_x = _images(rows @ typed(weight.flatten(1), x.dtype), thin)
        if stride > 1:
            own, grad_x = grad_x, torch.zeros_like(x)
            grad_x[:, :, ::stride, ::stride] = own
    if needs[1]:
        grad_w = _product(rows.t(), _pixels(thin), dtype).view_as(weight)
    if needs[2]:
        grad_b = rows.sum(0)
    return grad_x, grad_w, grad_b


def _thinned(x: Tensor, stride: int) -> Tensor:
    return x if stride == 1 else x[:, :, ::stride, ::stride]


def _pixels(x: Tensor) -> Tensor:
    """`[M, C, H, W]` -> `[M H W, C]`."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(pixels: Tensor, like: Tensor) -> Tensor:
    """`[M H W, C']` -> `[M, C', H, W]`, of like's M, H and W."""
    return pixels.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def _image(x: Tensor) -> Tensor:
    """x with the strides of channels last also where it has one channel or one pixel, and they are not told apart: else
    PyTorch would take the convolution of planes."""
    return _seen(laid(x))


def _seen(x: Tensor) -> Tensor:
    """The memory of x as that of an image with channels last."""
    _, channels, height, width = x.shape
    return x.as_strided(x.shape, (height * width * channels, 1, width * channels, channels))


def _filter(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.to(dtype, memory_format=torch.channels_last)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a b in a type. On CUDA the parts of its long sums meet in that type, not in theirs; PyTorch has that nowhere
    else."""
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda and a.dtype != dtype else typed(a @ b, dtype)
