"""Attention's products on GPU, of bf16 and fp16: Triton programs, each of one head in one image. They read and write
`[T B, H W, C]`, where a head's channels lie side by side in each pixel, so that nothing is brought in another order.

K^T V of a head is a square of its channels, which stays in the program. It is rounded to the tensors' type, as a
product that is written to memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .layout import laid


def product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Q (K^T V s) of each head, all `[T, B, C, H, W]`."""
    q, k, v = laid(q), laid(k), laid(v)
    y = torch.empty_like(q)
    _launch(_product, q, heads, k, v, y, scale)
    return y


def product_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, all `[T, B, C, H, W]`."""
    grad, q, k, v = laid(grad), laid(q), laid(k), laid(v)
    made = torch.empty_like(q), torch.empty_like(q), torch.empty_like(q)
    _launch(_product_backward, grad, heads, q, k, v, *made, scale)
    return made


def _launch(kernel: Any, x: Tensor, heads: int, *args: object) -> None:
    steps, batch, channels, height, width = x.shape
    tokens, own = height * width, channels // heads
    lines, columns = (max(16, triton.next_power_of_2(n)) for n in (min(tokens, 64), own))
    with torch.cuda.device_of(x):
        kernel[(steps * batch * heads,)](
            x,
            *args,
            tokens,
            channels,
            heads,
            own,
            BL=lines,
            BC=columns,
            num_warps=4 if columns <= 64 else 8,
            num_stages=1,  # of more, backward's registers do not do
        )


@triton.jit
def _head(channels, tokens, heads, own, BC: tl.constexpr):
    """Where a program's head starts, and places and presence of its channels."""
    start = (tl.program_id(0) // heads).to(tl.int64) * tokens * channels + tl.program_id(0) % heads * own
    column = tl.arange(0, BC)
    return start, column, column < own


@triton.jit
def _scaled(product, scale, like):
    return (product.to(like.dtype.element_ty).to(tl.float32) * scale).to(like.dtype.element_ty)


@triton.jit
def _product(q, k, v, y, scale, tokens, channels, heads, own, BL: tl.constexpr, BC: tl.constexpr):
    start, column, there = _head(channels, tokens, heads, own, BC)
    kv = tl.zeros([BC, BC], tl.float32)
    for begin in range(0, tokens, BL):
        line = begin + tl.arange(0, BL)
        at = start + line[:, None] * channels + column[None, :]
        inside = (line < tokens)[:, None] & there[None, :]
        of_k, of_v = tl.load(k + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)
        kv = tl.dot(tl.trans(of_k), of_v, kv)
    kv = _scaled(kv, scale, y)
    for begin in range(0, tokens, BL):
        line = begin + tl.arange(0, BL)
        at = start + line[:, None] * channels + column[None, :]
        inside = (line < tokens)[:, None] & there[None, :]
        of_q = tl.load(q + at, mask=inside, other=0.0)
        tl.store(y + at, tl.dot(of_q, kv).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _product_backward(
    grad,
    q,
    k,
    v,
    grad_q,
    grad_k,
    grad_v,
    scale,
    tokens,
    channels,
    heads,
    own,
    BL: tl.constexpr,
    BC: tl.constexpr,
):
    """With M = Q^T dY s, the gradient of K^T V: dQ = dY (K^T V s)^T, dK = V M^T, dV = K M."""
    start, column, there = _head(channels, tokens, heads, own, BC)
    kv = tl.zeros([BC, BC], tl.float32)
    m = tl.zeros([BC, BC], tl.float32)
    for begin in range(0, tokens, BL):
        line = begin + tl.arange(0, BL)
        at = start + line[:, None] * channels + column[None, :]
        inside = (line < tokens)[:, None] & there[None, :]
        of_k, of_v = tl.load(k + at, mask=inside, other=0.0), tl.load(v + at, mask=inside, other=0.0)
        kv = tl.dot(tl.trans(of_k), of_v, kv)
        of_q, of_y = tl.load(q + at, mask=inside, other=0.0), tl.load(grad + at, mask=inside, other=0.0)
        m = tl.dot(tl.trans(of_q), of_y, m)
    kv = tl.trans(_scaled(kv, scale, q))
    m = _scaled(m, scale, q)
    turned = tl.trans(m)
    for begin in range(0, tokens, BL):
        line = begin + tl.arange(0, BL)
        at = start + line[:, None] * channels + column[None, :]
        inside = (line < tokens)[:, None] & there[None, :]
        of_y = tl.load(grad + at, mask=inside, other=0.0)
        tl.store(grad_q + at, tl.dot(of_y, kv).to(q.dtype.element_ty), mask=inside)
        of_v = tl.load(v + at, mask=inside, other=0.0)
        tl.store(grad_k + at, tl.dot(of_v, turned).to(q.dtype.element_ty), mask=inside)
        of_k = tl.load(k + at, mask=inside, other=0.0)
        tl.store(grad_v + at, tl.dot(of_k, m).to(q.dtype.element_ty), mask=inside)
