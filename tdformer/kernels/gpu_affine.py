"""BatchNorm's affine part on a GPU: one launch for each BatchNorm, where PyTorch takes four."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .protocol import Norm

BLOCK = 256


def affine(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Norm:
    """See `protocol.Backend`."""
    out = mean.new_empty(3, len(mean))
    with torch.cuda.device_of(mean):
        _affine[(-(-len(mean) // BLOCK),)](
            mean, var, weight, bias, *out, len(mean), eps, BLOCK=BLOCK, num_warps=2, enable_fp_fusion=False
        )
    return Norm(mean, *out)


@triton.jit
def _affine(mean, var, weight, bias, inverses, scales, shifts, channels, eps, BLOCK: tl.constexpr):
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = c < channels
    centre = tl.load(mean + c, mask=known, other=0.0)
    inverse = tl.rsqrt(tl.load(var + c, mask=known, other=1.0) + eps)
    scale = inverse
    if weight is not None:
        scale = tl.load(weight + c, mask=known, other=0.0) * inverse
    shift = -centre * scale
    if bias is not None:
        shift = tl.load(bias + c, mask=known, other=0.0) - centre * scale
    tl.store(inverses + c, inverse, mask=known)
    tl.store(scales + c, scale, mask=known)
    tl.store(shifts + c, shift, mask=known)
