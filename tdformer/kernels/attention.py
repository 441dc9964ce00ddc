"""Attention's products where channels lie last, Q (K^T V s) of each head: an operator for PyTorch, so that who counts
operators sees it, and what it is by PyTorch's own. Those want each head's tokens side by side, a copy of every tensor;
Triton's programs (`attention_gpu`), of tensors of 16 bits, read them where they lie."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

operators = torch.library.Library("tdformer", "DEF")
operators.define("product(Tensor q, Tensor k, Tensor v, int heads, float scale) -> Tensor")
operators.define(
    "product_backward(Tensor grad, Tensor q, Tensor k, Tensor v, int heads, float scale) -> (Tensor, Tensor, Tensor)"
)


class Products(Protocol):
    """A module of both; all tensors `[T, B, C, H, W]`."""

    def product(self, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
        """Of each head its share of the channels."""

    def product_backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of q, k and v."""


def product(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """See `Products`."""
    square = _square(_apart(k, heads), _apart(v, heads), scale)
    return _beside(torch.bmm(_apart(q, heads), square), q.shape, heads)


def product_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `Products`."""
    of_y, of_q, of_k, of_v = (_apart(x, heads) for x in (grad, q, k, v))
    of_square = _square(of_q, of_y, scale)  # the gradient of K^T V
    factors = (of_y, _square(of_k, of_v, scale).mT), (of_v, of_square.mT), (of_k, of_square)
    grad_q, grad_k, grad_v = (_beside(torch.bmm(a, b), q.shape, heads) for a, b in factors)  # one more copy at a time
    return grad_q, grad_k, grad_v


def factors(q: Tensor, k: Tensor, v: Tensor, heads: int) -> list[tuple[Tensor, Tensor]]:
    """The two products of matrices that `product` is, `[T B heads, ...]` each, in the order that takes fewer steps: for
    who counts them."""
    of_q, of_k, of_v = (_apart(x, heads) for x in (q, k, v))
    if of_q.shape[2] <= of_q.shape[1]:
        return [(of_k.mT, of_v), ((of_k.mT @ of_v).mT, of_q.mT)]
    return [(of_k, of_q.mT), (of_v.mT, of_k @ of_q.mT)]


def _square(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """a^T b s, of a head's channels by themselves."""
    return torch.bmm(a.mT, b) * scale


def _apart(x: Tensor, heads: int) -> Tensor:
    """`[T, B, C, H, W]` -> `[T B heads, H W, C / heads]`."""
    y: Tensor = x.movedim(2, 4).flatten(2, 3).unflatten(3, (heads, -1)).transpose(2, 3).flatten(0, 2)
    return y


def _beside(tokens: Tensor, shape: torch.Size, heads: int) -> Tensor:
    """The other way, to `[T, B, C, H, W]` of this shape."""
    steps, batch, channels, height, width = shape
    pixels: Tensor = tokens.unflatten(0, (steps, batch, heads)).transpose(2, 3)
    return pixels.reshape(steps, batch, height, width, channels).movedim(4, 2)
