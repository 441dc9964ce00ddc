"""Small integers in a few bits, on GPU: Triton programs over blocks of bytes of one image, the values in the order in
which they lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import gpu_programs as device
from .gpu import launch

BYTES = 256
"""Of a program."""


def pack(x: Tensor, bits: int) -> Tensor:
    """See `protocol.Packer`."""
    return _packed(x, None, None, bits)


def add_pack(x: Tensor, y: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """See `protocol.Adder`."""
    total = torch.empty_like(x)
    return total, _packed(x, y, total, bits)


def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `protocol.Packer`."""
    data = data.contiguous()
    images, size = data.shape
    values = torch.empty(images, count, dtype=dtype, device=data.device)
    blocks = -(-size // BYTES)
    launch(device.unpack, images * blocks, data, values, count, size, blocks, BITS=bits, BYTES=BYTES)
    return values


def _packed(x: Tensor, y: Tensor | None, total: Tensor | None, bits: int) -> Tensor:
    """The bytes of x, or of x + y, which is then written to `total`; all `[M, ...]` and contiguous."""
    count = x[0].numel()
    size = -(-count * bits // 8)
    data = torch.empty(len(x), size, dtype=torch.uint8, device=x.device)
    blocks = -(-size // BYTES)
    launch(device.pack, len(x) * blocks, x, y, total, data, count, size, blocks, BITS=bits, BYTES=BYTES)
    return data
