"""Spikes and their sums in as few bits as they need: 1 for a spike, 2, 4 or 8 for a small integer.

A tensor that neurons or sums of their spikes made carries the largest value it can have, as `bound`. Any other is
looked at: what is not made of integers from 0 to 255 is kept as it is, never cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import kernels

WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Layout:
    """How `data` holds a tensor: bits a value (0: as it is), the shape of one image, and the type."""

    bits: int
    image: torch.Size
    dtype: torch.dtype

    def unpack(self, data: Tensor, batch: slice = slice(None)) -> Tensor:
        """data `[T, B, bytes]` -> the images `batch` of it, `[T, b, ...]`."""
        part = data[:, batch]
        if not self.bits:
            return part
        return kernels.unpack(part.flatten(0, 1), self.bits, self.image.numel(), self.dtype).view(
            *part.shape[:2], *self.image
        )


def pack(x: Tensor) -> tuple[Tensor, Layout]:
    """x `[T, B, ...]` -> data and its layout; packed once, however many ask."""
    known: tuple[Tensor, Layout] | None = getattr(x, "packed", None)
    if known is None:
        bound = bound_of(x)
        if bound is None:
            bound = kernels.largest_integer(x)
        bits = next((width for width in WIDTHS if bound is not None and bound < 1 << width), 0)
        layout = Layout(bits, x.shape[2:], x.dtype)
        known = (kernels.pack(x.detach().flatten(0, 1), bits).unflatten(0, x.shape[:2]) if bits else x.detach()), layout
        x.packed = known  # type: ignore[attr-defined]
    return known


def bounded(x: Tensor, bound: int | None) -> Tensor:
    """Say that x holds integers from 0 to `bound`."""
    x.bound = bound  # type: ignore[attr-defined]
    return x


def bound_of(x: Tensor) -> int | None:
    """The largest integer x can hold, None where that is not known."""
    return getattr(x, "bound", None)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, whose bound is the sum of theirs."""
    a, b = bound_of(x), bound_of(y)
    return bounded(x + y, None if a is None or b is None else a + b)
