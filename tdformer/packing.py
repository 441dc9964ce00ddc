"""Spikes and their sums in as few bits as they need: 1 for a spike, 2, 4 or 8 for a small integer.

A tensor that neurons or sums of their spikes made carries the largest value it can have, as `bound`; a picture or a
current, which is real, carries None. Any other is looked at: what is not made of integers from 0 to 255 is kept as it
is, never cut. Once packed, in the kernel that made it or later, a tensor carries that too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import kernels

WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Layout:
    """How `data` holds a tensor: bits a value (0: as it is), the shape of one image, the type, and whether the values
    are in the order `[H, W, C]`, as they lie on a GPU."""

    bits: int
    image: torch.Size
    dtype: torch.dtype
    last: bool = False

    def unpack(self, data: Tensor, batch: slice = slice(None)) -> Tensor:
        """data `[T, B, bytes]` -> the images `batch` of it, `[T, b, ...]`."""
        part = data[:, batch]
        if not self.bits:
            return part
        values = kernels.unpack(part.flatten(0, 1), self.bits, self.image.numel(), self.dtype)
        if not self.last:
            return values.view(*part.shape[:2], *self.image)
        channels, *size = self.image
        return values.view(*part.shape[:2], *size, channels).movedim(-1, 2)


def pack(x: Tensor) -> tuple[Tensor, Layout]:
    """x `[T, B, ...]` -> data and its layout; packed once, however many ask."""
    known: tuple[Tensor, Layout] | None = getattr(x, "packed", None)
    if known is None:
        bound = bound_of(x) if hasattr(x, "bound") else kernels.largest_integer(x)
        bits = _width(bound)
        layout = Layout(bits, x.shape[2:], x.dtype, bool(bits) and _last(x))
        data = x.detach()
        known = (kernels.pack(_lines(data), bits).unflatten(0, x.shape[:2]) if bits else data), layout
        x.packed = known  # type: ignore[attr-defined]
    return known


def keep_bits(x: Tensor, data: Tensor | None) -> Tensor:
    """Say that spikes x `[T, B, ...]` are packed in `data`, if they are."""
    if data is not None:
        x.packed = data, Layout(1, x.shape[2:], x.dtype, _last(x))  # type: ignore[attr-defined]
    return x


def bits_of(x: Tensor) -> Tensor | None:
    """What `keep_bits` was told."""
    known: tuple[Tensor, Layout] | None = getattr(x, "packed", None)
    return known[0] if known is not None and known[1].bits == 1 else None


def bounded(x: Tensor, bound: int | None) -> Tensor:
    """Say that x holds integers from 0 to `bound`, or other numbers (None)."""
    x.bound = bound  # type: ignore[attr-defined]
    return x


def split(x: Tensor, count: int) -> list[Tensor]:
    """Frames x `[T, B, C, H, W]` in so many parts of as many steps, of which the same is known; they lie as their
    device keeps activations."""
    found = [kernels.laid(part) for part in x.chunk(count)]
    return [bounded(part, bound_of(x)) for part in found] if hasattr(x, "bound") else found


def bound_of(x: Tensor) -> int | None:
    """The largest integer x can hold, None where that is not known or x holds other numbers."""
    return getattr(x, "bound", None)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, whose bound is the sum of theirs. On a GPU the sum of what is packed is packed in the same pass."""
    a, b = bound_of(x), bound_of(y)
    bound = None if a is None or b is None else a + b
    if (bits := _width(bound)) and _packs(x, y):
        total: Tensor
        total, data = _Sum.apply(x, y, bits)  # type: ignore[no-untyped-call]
        known = data.unflatten(0, x.shape[:2]), Layout(bits, x.shape[2:], x.dtype, True)
        total.packed = known  # type: ignore[attr-defined]
    else:
        total = x + y
    if bound is None and not any(hasattr(z, "bound") and bound_of(z) is None for z in (x, y)):
        return total  # nothing is known of it
    return bounded(total, bound)


class _Sum(torch.autograd.Function):
    """x + y `[T, B, C, H, W]`, and that packed, `[T B, bytes]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        total, data = kernels.add_pack(_lines(x), _lines(y), bits)
        ctx.mark_non_differentiable(data)
        ctx.set_materialize_grads(False)
        return total.unflatten(0, x.shape[:2]).movedim(-1, 2), data

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        return grads[0], grads[0], None


def _width(bound: int | None) -> int:
    """Bits for integers up to `bound`; 0: it is kept as it is."""
    return next((width for width in WIDTHS if bound is not None and bound < 1 << width), 0)


def _last(x: Tensor) -> bool:
    """Whether x has channels that lie last."""
    return x.dim() == 5 and kernels.channels_last(x)


def _lines(x: Tensor) -> Tensor:
    """x `[T, B, ...]` as `[T B, ...]` in the order in which its device keeps it."""
    return (kernels.laid(x).movedim(2, -1) if _last(x) else x).flatten(0, 1)


def _packs(x: Tensor, y: Tensor) -> bool:
    """Whether a sum is packed while it is made: where one that goes into it is packed."""
    alike = x.shape == y.shape and x.dtype == y.dtype
    return alike and _last(x) and any(getattr(z, "packed", None) is not None for z in (x, y))
