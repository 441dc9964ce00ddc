"""The fused neuron on CUDA, in Triton: one program takes some pixels of one channel of one image through all steps.

Sums over the batch are parts that PyTorch adds up afterwards, so they do not depend on the order of the programs.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import NeuronOptions
from .reference import Gradients, Norm

SURROGATES = ("sigmoid", "arctan", "rectangular")
BLOCK = 256
"""Pixels a program, no more than a plane has."""
EXACT = {"enable_fp_fusion": False}
"""H, and so each spike, comes out the same in both directions."""


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.statistics`: a mean and a sum of squares for each part of a channel, joined by PyTorch."""
    y = y.contiguous()
    images, channels, size = y.shape[0], y.shape[1], y[0, 0].numel()
    parts = max(1, min(images * size // 4096, 64))
    found = torch.empty(3, channels, parts, dtype=torch.float32, device=y.device)
    _statistics[(channels, parts)](y, found, images, channels, size, parts, BLOCK=1024)
    count, mean, squares = found.double()
    total = count.sum(1)
    joint = (count * mean).sum(1) / total
    var = (squares + count * (mean - joint[:, None]).square()).sum(1) / total
    return joint.float(), var.float()


def fire(
    y: Tensor, norm: Norm | None, membrane: Tensor | None, decay: Tensor, o: NeuronOptions, pool: bool, steps: int
) -> tuple[Tensor, Tensor]:
    """See `reference.fire`."""
    y = y.contiguous()
    _, batch, channels, height, width = y.shape
    out = ((height + 1) // 2, (width + 1) // 2) if pool else (height, width)
    spikes = torch.empty(steps, batch, channels, *out, dtype=y.dtype, device=y.device)
    after = torch.empty(batch, channels, *out, dtype=torch.float32, device=y.device)
    block, grid = _grid(spikes)
    _fire[grid](
        y, *_affine(norm, y), _given(membrane, y), decay.contiguous(), spikes, after,
        batch * channels, channels, height, width, out[0] * out[1], steps, o.threshold, o.v_reset or 0.0,
        SAME=len(y) == 1, POOL=pool, CARRIED=membrane is not None, SOFT=o.v_reset is None, BLOCK=block, **EXACT,
    )  # fmt: skip
    return spikes, after


def fire_backward(
    y: Tensor,
    norm: Norm | None,
    membrane: Tensor | None,
    decay: Tensor,
    o: NeuronOptions,
    pool: bool,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
) -> Gradients:
    """See `reference.fire_backward`. H is written where the gradient of the current will be, and then over-written."""
    y, grad_spikes = y.contiguous(), grad_spikes.contiguous()
    _, batch, channels, height, width = y.shape
    steps, same = len(grad_spikes), len(y) == 1
    grad = torch.empty(len(y), *grad_spikes.shape[1:], dtype=torch.float32, device=y.device)
    h = torch.empty(grad_spikes.shape, dtype=torch.float32, device=y.device) if same else grad
    before = None if membrane is None else torch.empty(membrane.shape, dtype=torch.float32, device=y.device)
    block, grid = _grid(grad_spikes)
    sums = torch.empty(3, *grid, dtype=torch.float32, device=y.device)
    _fire_backward[grid](
        y, *_affine(norm, y), *((norm.mean, norm.invstd) if norm is not None else (y, y)), _given(membrane, y),
        decay.contiguous(), grad_spikes, _given(grad_membrane, y), h, grad, _given(before, y), sums,
        batch * channels, channels, height, width, grad_spikes[0, 0, 0].numel(), steps,
        o.threshold, o.v_reset or 0.0, o.alpha,
        SAME=same, POOL=pool, NORMED=norm is not None, CARRIED=membrane is not None, GIVEN=grad_membrane is not None,
        SOFT=o.v_reset is None, DETACH=o.detach_reset, SURROGATE=SURROGATES.index(o.surrogate), BLOCK=block, **EXACT,
    )  # fmt: skip
    return Gradients(grad, before, *sums.view(3, batch, channels, -1).sum((1, 3)))


def norm_backward(
    y: Tensor, norm: Norm, grad: Tensor, mean_grad: Tensor, mean_grad_normal: Tensor, pool: bool
) -> Tensor:
    """See `reference.norm_backward`; written over y. The winners of the windows are found before, a byte each."""
    y, grad = y.contiguous(), grad.contiguous()
    planes, (height, width) = y.numel() // y[0, 0, 0].numel(), y.shape[3:]
    channels, out_size = y.shape[2], grad[0, 0, 0].numel()
    winners = torch.empty(grad.shape if pool else (0,), dtype=torch.uint8, device=y.device)
    if pool:
        block = min(BLOCK, triton.next_power_of_2(out_size))
        _find_winners[(planes, triton.cdiv(out_size, block))](
            y, norm.scale, norm.shift, winners, channels, height, width, out_size, BLOCK=block
        )
    block, (_, blocks) = _grid(y)
    _norm_backward[(planes, blocks)](
        y, norm.scale, norm.mean, norm.invstd, mean_grad, mean_grad_normal, grad, winners, channels, height, width,
        out_size, POOL=pool, BLOCK=block,
    )  # fmt: skip
    return y


def _grid(x: Tensor) -> tuple[int, tuple[int, int]]:
    """Pixels in a block, and the programs for all blocks of all planes of one step."""
    size = x[0, 0, 0].numel()
    block = min(BLOCK, triton.next_power_of_2(size))
    return block, (x[0].numel() // size, triton.cdiv(size, block))


def _affine(norm: Norm | None, y: Tensor) -> tuple[Tensor, Tensor]:
    if norm is None:
        ones = torch.ones(y.shape[2], dtype=torch.float32, device=y.device)
        return ones, torch.zeros_like(ones)
    return norm.scale, norm.shift


def _given(x: Tensor | None, stand_in: Tensor) -> Any:
    """A kernel takes a pointer in any case."""
    return stand_in if x is None else x.contiguous()


@triton.jit
def _statistics(y, found, images, channels, size, parts, BLOCK: tl.constexpr):
    c, part = tl.program_id(0), tl.program_id(1)
    total = images * size
    share = tl.cdiv(total, parts)
    first, last = part * share, tl.minimum(total, (part + 1) * share)
    count, mean, squares = 0.0, 0.0, 0.0
    for start in range(first, last, BLOCK):
        i = start + tl.arange(0, BLOCK)
        inside = i < last
        place = ((i // size).to(tl.int64) * channels + c) * size + i % size
        x = tl.load(y + place, mask=inside, other=0.0).to(tl.float32)
        n = tl.sum(inside.to(tl.float32))
        own = tl.sum(x) / n
        away = tl.where(inside, x - own, 0.0)
        delta = own - mean
        joint = count + n
        squares += tl.sum(away * away) + delta * delta * count * n / joint
        mean += delta * n / joint
        count = joint
    place = c * parts + part
    tl.store(found + place, count)
    tl.store(found + channels * parts + place, mean)
    tl.store(found + 2 * channels * parts + place, squares)


@triton.jit
def _window(y, scale, shift, out, width, height, inside, POOL: tl.constexpr):
    """The current at output pixels `out` of the plane at y, the value of y behind it, and where in its window."""
    if POOL:
        half = (width + 1) // 2
        row, column = 2 * (out // half) - 1, 2 * (out % half) - 1
        best = tl.full(out.shape, float("-inf"), tl.float32)
        value = tl.zeros(out.shape, tl.float32)
        winner = tl.full(out.shape, 4, tl.int32)
        for k in tl.static_range(9):
            i, j = row + k // 3, column + k % 3
            valid = inside & (i >= 0) & (i < height) & (j >= 0) & (j < width)
            v = tl.load(y + i * width + j, mask=valid, other=0.0).to(tl.float32)
            x = v * scale + shift
            larger = valid & (x > best)
            best, value, winner = tl.where(larger, x, best), tl.where(larger, v, value), tl.where(larger, k, winner)
        return best, value, winner
    else:
        value = tl.load(y + out, mask=inside, other=0.0).to(tl.float32)
        return value * scale + shift, value, out


@triton.jit
def _charge(v, x, rate, rest):
    """Eq 1: H."""
    return v + (x - (v - rest)) * rate


@triton.jit
def _after(h, threshold, rest, SOFT: tl.constexpr):
    """Eq 3: V from H."""
    return tl.where(h >= threshold, h - threshold if SOFT else rest, h)


@triton.jit
def _fire(
    y, scale, shift, membrane, decay, spikes, after, planes, channels, height, width, size, steps, threshold, rest,
    SAME: tl.constexpr, POOL: tl.constexpr, CARRIED: tl.constexpr, SOFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    c = plane % channels
    a, b, rate = tl.load(scale + c), tl.load(shift + c), tl.load(decay + c)
    v = tl.full((BLOCK,), 0.0, tl.float32) + rest
    if CARRIED:
        v = tl.load(membrane + plane * size + i, mask=inside, other=0.0)
    x, _, _ = _window(y + plane * height * width, a, b, i, width, height, inside, POOL)
    for t in range(steps):
        if not SAME:
            x, _, _ = _window(y + (t * planes + plane) * height * width, a, b, i, width, height, inside, POOL)
        h = _charge(v, x, rate, rest)
        fired = tl.where(h >= threshold, 1.0, 0.0)
        tl.store(spikes + (t * planes + plane) * size + i, fired.to(spikes.dtype.element_ty), mask=inside)
        v = _after(h, threshold, rest, SOFT)
    tl.store(after + plane * size + i, v, mask=inside)


@triton.jit
def _slope(u, alpha, SURROGATE: tl.constexpr):
    if SURROGATE == 0:
        s = tl.sigmoid(u * alpha)
        return (1.0 - s) * s * alpha
    elif SURROGATE == 1:
        w = u * (1.5707963267948966 * alpha)
        return 0.5 * alpha / (1.0 + w * w)
    else:
        return tl.where(tl.abs(u) < 0.5 / alpha, alpha, 0.0)


@triton.jit
def _fire_backward(
    y, scale, shift, mean, invstd, membrane, decay, grad_spikes, grad_membrane, potentials, grad, before, sums,
    planes, channels, height, width, size, steps, threshold, rest, alpha,
    SAME: tl.constexpr, POOL: tl.constexpr, NORMED: tl.constexpr, CARRIED: tl.constexpr, GIVEN: tl.constexpr,
    SOFT: tl.constexpr, DETACH: tl.constexpr, SURROGATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    c = plane % channels
    a, b, rate = tl.load(scale + c), tl.load(shift + c), tl.load(decay + c)
    start = tl.full((BLOCK,), 0.0, tl.float32) + rest
    if CARRIED:
        start = tl.load(membrane + plane * size + i, mask=inside, other=0.0)
    v = start
    x, value, _ = _window(y + plane * height * width, a, b, i, width, height, inside, POOL)
    for t in range(steps):
        if not SAME:
            x, value, _ = _window(y + (t * planes + plane) * height * width, a, b, i, width, height, inside, POOL)
        h = _charge(v, x, rate, rest)
        tl.store(potentials + (t * planes + plane) * size + i, h, mask=inside)
        v = _after(h, threshold, rest, SOFT)
    tl.debug_barrier()
    centre, spread = 0.0, 0.0
    if NORMED:
        centre, spread = tl.load(mean + c), tl.load(invstd + c)
    grad_v = tl.zeros((BLOCK,), tl.float32)
    if GIVEN:
        grad_v = tl.load(grad_membrane + plane * size + i, mask=inside, other=0.0)
    total, total_normal, total_decay = grad_v * 0.0, grad_v * 0.0, grad_v * 0.0
    for back in range(steps):
        t = steps - 1 - back
        place = (t * planes + plane) * size + i
        h = tl.load(potentials + place, mask=inside, other=0.0)
        slope = _slope(h - threshold, alpha, SURROGATE)
        if SOFT:
            reset = 1.0 if DETACH else 1.0 - threshold * slope
        else:
            reset = tl.where(h >= threshold, 0.0, 1.0)
            reset = reset if DETACH else reset + (rest - h) * slope
        grad_h = tl.load(grad_spikes + place, mask=inside, other=0.0).to(tl.float32) * slope + grad_v * reset
        previous = start
        if t > 0:
            earlier = tl.load(potentials + ((t - 1) * planes + plane) * size + i, mask=inside, other=0.0)
            previous = _after(earlier, threshold, rest, SOFT)
        total_decay += tl.where(inside, grad_h * (h - previous) / rate, 0.0)
        grad_v = grad_h * (1.0 - rate)
        grad_x = tl.where(inside, grad_h * rate, 0.0)
        total += grad_x
        if not SAME:
            if NORMED:
                _, value, _ = _window(y + (t * planes + plane) * height * width, a, b, i, width, height, inside, POOL)
                total_normal += grad_x * (value - centre) * spread
            tl.store(grad + place, grad_x, mask=inside)
    if SAME:
        total_normal = total * (value - centre) * spread
        tl.store(grad + plane * size + i, total, mask=inside)
    if CARRIED:
        tl.store(before + plane * size + i, grad_v, mask=inside)
    blocks = tl.num_programs(1)
    place = plane * blocks + tl.program_id(1)
    tl.store(sums + place, tl.sum(total_decay))
    tl.store(sums + planes * blocks + place, tl.sum(total))
    tl.store(sums + 2 * planes * blocks + place, tl.sum(total_normal))


@triton.jit
def _find_winners(y, scale, shift, winners, channels, height, width, size, BLOCK: tl.constexpr):
    plane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    a, b = tl.load(scale + plane % channels), tl.load(shift + plane % channels)
    _, _, winner = _window(y + plane * height * width, a, b, i, width, height, inside, True)
    tl.store(winners + plane * size + i, winner.to(tl.uint8), mask=inside)


@triton.jit
def _norm_backward(
    y, scale, mean, invstd, mean_grad, mean_grad_normal, grad, winners, channels, height, width, out_size,
    POOL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    plane = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = height * width
    inside = i < size
    c = plane % channels
    if POOL:  # a pixel lies in the windows of one or two rows, and of one or two columns
        half = (width + 1) // 2
        row, column = i // width, i % width
        g = tl.zeros((BLOCK,), tl.float32)
        for k in tl.static_range(4):
            r, q = (row + k // 2) // 2, (column + k % 2) // 2
            fresh = ((k < 2) | (row % 2 == 1)) & ((k % 2 == 0) | (column % 2 == 1))
            valid = inside & fresh & (q < half) & (r < (height + 1) // 2)
            place = plane * out_size + r * half + q
            winner = tl.load(winners + place, mask=valid, other=0).to(tl.int32)
            mine = (row - (2 * r - 1)) * 3 + column - (2 * q - 1)
            g += tl.load(grad + place, mask=valid & (winner == mine), other=0.0)
    else:
        g = tl.load(grad + plane * size + i, mask=inside, other=0.0)
    value = tl.load(y + plane * size + i, mask=inside, other=0.0).to(tl.float32)
    normal = (value - tl.load(mean + c)) * tl.load(invstd + c)
    result = (g - tl.load(mean_grad + c) - normal * tl.load(mean_grad_normal + c)) * tl.load(scale + c)
    tl.store(y + plane * size + i, result.to(y.dtype.element_ty), mask=inside)
