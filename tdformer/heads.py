"""Heads: each has a share of the channels. Views of them, sums over them, and products of their tokens; where channels
lie last, gradients do, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import kernels
from .precision import autocast_type, exact, typed


def heads_of(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, heads, C / heads, H W]`, a view; its gradient lies in memory as x does."""
    if kernels.channels_last(x):
        return _by_pixel(x, heads).permute(0, 1, 3, 4, 2)
    y: Tensor = x.flatten(3).unflatten(2, (heads, -1))
    return y


def _by_pixel(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, H W, heads, C / heads]`, a view where channels lie last."""
    y: Tensor = x.movedim(2, 4).flatten(2, 3).unflatten(3, (heads, -1))
    return y


def sums_of_heads(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> the sums over each head's channels, `[T, B, heads, 1, H W]`."""
    if kernels.channels_last(x):
        return _by_pixel(x, heads).sum(4, keepdim=True).permute(0, 1, 3, 4, 2)
    return heads_of(x, heads).sum(3, keepdim=True)


def let_through(mask: Tensor, x: Tensor, heads: int) -> Tensor:
    """What a mask `[T, B, heads, C / heads or 1, H W or 1]` lets through of x `[T, B, C, H, W]`."""
    if kernels.channels_last(x):
        y = as_mask(mask, x).permute(0, 1, 4, 2, 3) * _by_pixel(x, heads)
        pixels: Tensor = y.flatten(3).unflatten(2, x.shape[3:])
        return pixels.movedim(4, 2)
    return (mask * heads_of(x, heads)).view_as(x)


def as_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of x: on a GPU in x's type, so that what it lets through is. Under autocast it comes of sums in fp32."""
    return typed(mask, x.dtype) if kernels.channels_last(x) else mask


def met(k: Tensor, v: Tensor) -> Tensor:
    """How often K and V `[T, B, C, H, W]` meet in each channel, `[T, B, C, 1, 1]`."""
    if not kernels.channels_last(k):
        return (k * v).sum((3, 4), keepdim=True)
    y: Tensor = _Met.apply(k, v)  # type: ignore[no-untyped-call]
    return y


class _Met(torch.autograd.Function):
    """Under autocast sums are in fp32. Autograd would bring their gradient into bf16 when it is as large as K, and as
    planes."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(k, v)
        return (k * v).sum((3, 4), keepdim=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        k, v = ctx.saved_tensors
        grad = grads[0].to(k.dtype)
        return grad * v, grad * k


def sums_of_tokens(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> the sums over tokens, `[T, B, heads, C / heads, 1]`."""
    return heads_of(x, heads).sum(4, keepdim=True)


def tokens_of(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> `[T, B, heads, H W, C / heads]`."""
    y: Tensor = heads_of(x, heads).transpose(3, 4)
    return y


def joined(tokens: Tensor, shape: torch.Size) -> Tensor:
    """What `tokens_of` made of a tensor of this shape, together again; a copy."""
    if not kernels.channels_last(tokens):
        # With one head that is a view whose channels lie side by side, and a convolution of it ends in other bits than
        # of what is unpacked for backward.
        return tokens.transpose(3, 4).reshape(shape).contiguous()
    steps, batch, channels, height, width = shape
    pixels = tokens.transpose(2, 3).reshape(steps, batch, height, width, channels)
    return pixels.movedim(4, 2)


def product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """(Q K^T V) s where channels lie last, all `[T, B, C, H, W]`: Q (K^T V s) of each head."""
    y: Tensor = _Product.apply(q, k, v, heads, scale)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
        dtype = autocast_type(q) or q.dtype
        ctx.heads, ctx.scale = heads, scale
        with exact(q):
            q, k, v = (typed(x, dtype) for x in (q, k, v))
            ctx.save_for_backward(q, k, v)
            return kernels.product(q, k, v, heads, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        with exact(q):
            made = kernels.product_backward(grads[0].to(q.dtype), q, k, v, ctx.heads, ctx.scale)
        return *made, None, None
