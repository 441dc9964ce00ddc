"""The fused neuron on GPU: Triton programs, each over a block of pixels of one plane `[b, c]`.

A program takes its pixels through all steps with V in registers. H must come out the same in both directions, so no
multiply and add are contracted into one. Each program leaves its part of a sum, and PyTorch adds the parts: two runs
give the same bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import NeuronOptions
from .gpu_affine import affine as affine
from .protocol import Drive, Gradients, Means, Norm

HALF_PI = tl.constexpr(math.pi / 2)


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `protocol.Backend`."""
    y = y.contiguous()
    images, channels, size = y.shape[0], y.shape[1], y[0, 0].numel()
    block, blocks = _blocks(size)
    own, squares = torch.empty(2, images, channels, blocks, dtype=torch.float32, device=y.device)
    _launch(_statistics, own.numel(), block, y, own, squares, size, blocks)
    count = (size - block * torch.arange(blocks, device=y.device)).clamp(max=block)  # values of a part
    mean = (own * count).sum((0, 2)) / (images * size)
    squares += (own - mean.view(-1, 1)).square_() * count
    return mean, squares.sum((0, 2)) / (images * size)


class Shape(NamedTuple):
    """Sizes for the programs: channels, H and W of y; values of y in a plane and in a step; the same of what the neuron
    sees, `[B, C, h, w]`; programs to a plane."""

    channels: int
    height: int
    width: int
    y_size: int
    y_step: int
    size: int
    step: int
    blocks: int


class Cell(NamedTuple):
    """The neuron's constants for the programs."""

    threshold: float
    rest: float


class Scaling(NamedTuple):
    """A `Norm` for the programs, each None where there is none."""

    mean: Tensor | None
    invstd: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


class Sums(NamedTuple):
    """Where each program leaves its part of the sums of `Gradients`."""

    decay: Tensor
    grad: Tensor
    normal: Tensor


def fire(drive: Drive, steps: int) -> tuple[Tensor, Tensor]:
    """See `protocol.Backend`."""
    y, o = drive.y.contiguous(), drive.neuron
    batch, channels, *image = y.shape[1:]
    shape = (batch, channels, *((n + 1) // 2 for n in image)) if drive.pool else (batch, channels, *image)
    spikes = torch.empty(steps, *shape, dtype=y.dtype, device=y.device)
    after = torch.empty(shape, dtype=torch.float32, device=y.device)
    block, blocks = _blocks(after[0, 0].numel())
    _launch(
        _fire,
        batch * channels * blocks,
        block,
        y,
        _scaling(drive.norm),
        _dense(drive.membrane),
        _dense(drive.decay),
        spikes,
        after,
        steps,
        _shape(y, after, blocks),
        _cell(o),
        SOFT=o.v_reset is None,
        POOL=drive.pool,
        SAME=len(y) == 1,
    )
    return spikes, after


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    """See `protocol.Backend`. Until a step's gradient is known, its H lies in its place; where one input serves all
    steps there is no such place, and H is computed again from the first step for each."""
    y, grad_spikes, o = drive.y.contiguous(), grad_spikes.contiguous(), drive.neuron
    steps, batch, channels = grad_spikes.shape[:3]
    grad = torch.empty(len(y), *grad_spikes.shape[1:], dtype=torch.float32, device=y.device)
    before = None
    if drive.membrane is not None:
        before = torch.empty(grad.shape[1:], dtype=torch.float32, device=y.device)
    block, blocks = _blocks(grad[0, 0, 0].numel())
    sums = torch.empty(3, batch, channels, blocks, dtype=torch.float32, device=y.device)
    _launch(
        _fire_backward,
        batch * channels * blocks,
        block,
        y,
        _scaling(drive.norm),
        _dense(drive.membrane),
        _dense(drive.decay),
        grad_spikes,
        _dense(grad_membrane),
        grad,
        before,
        Sums(*sums),
        steps,
        grad_spikes[1:].numel(),
        _shape(y, grad[0], blocks),
        _cell(o),
        SOFT=o.v_reset is None,
        SURROGATE=o.surrogate,
        ALPHA=o.alpha,
        DETACH=o.detach_reset,
        POOL=drive.pool,
        SAME=len(y) == 1,
    )
    return Gradients(grad, before, *sums.sum((1, 3)))


def norm_backward(y: Tensor, norm: Norm, grad: Tensor, means: Means, pool: bool) -> Tensor:
    """See `protocol.Backend`; written over y. With pooling each window's winner is noted first, in a byte."""
    y, grad = y.contiguous(), grad.contiguous()
    planes, winners = y[:, :, :, 0, 0].numel(), None
    if pool:
        winners = torch.empty(grad.shape, dtype=torch.uint8, device=y.device)
        block, blocks = _blocks(grad[0, 0, 0].numel())
        _launch(_winners, planes * blocks, block, y, _scaling(norm), winners, _shape(y, grad[0], blocks))
    block, blocks = _blocks(y[0, 0, 0].numel())
    arguments = _scaling(norm), Means(means.grad.contiguous(), means.grad_normal.contiguous()), grad, winners
    _launch(_norm_backward, planes * blocks, block, y, *arguments, _shape(y, grad[0], blocks))
    return y


def _launch(kernel: Any, programs: int, block: int, y: Tensor, *args: object, **options: object) -> None:
    with torch.cuda.device_of(y):
        kernel[(programs,)](y, *args, BLOCK=block, num_warps=max(1, block // 256), enable_fp_fusion=False, **options)


def _blocks(size: int) -> tuple[int, int]:
    """Pixels of a program, and programs to a plane."""
    block = min(1024, triton.next_power_of_2(size))
    return block, triton.cdiv(size, block)


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _scaling(norm: Norm | None) -> Scaling:
    return Scaling(None, None, None, None) if norm is None else Scaling(*(x.contiguous() for x in norm))


def _cell(o: NeuronOptions) -> Cell:
    return Cell(float(o.threshold), float(o.v_reset or 0.0))


def _shape(y: Tensor, plane: Tensor, blocks: int) -> Shape:
    """plane: what the neuron sees in a step, `[B, C, h, w]`."""
    _, _, channels, height, width = y.shape
    return Shape(channels, height, width, y[0, 0, 0].numel(), y[0].numel(), plane[0, 0].numel(), plane.numel(), blocks)


@triton.jit
def _statistics(y, means, squares, size, blocks, BLOCK: tl.constexpr):
    """Mean of a block, and its summed squares around that mean."""
    program = tl.program_id(0)
    pixel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    value = tl.load(y + (program // blocks).to(tl.int64) * size + pixel, mask=inside, other=0.0).to(tl.float32)
    own = tl.sum(value) / tl.minimum(size - program % blocks * BLOCK, BLOCK)
    centred = tl.where(inside, value - own, 0.0)
    tl.store(means + program, own)
    tl.store(squares + program, tl.sum(centred * centred))


@triton.jit
def _behind(y, scale, shift, pixel, inside, shape, POOL: tl.constexpr):
    """The value of y behind each current, in fp32, and where in its window it was (0 to 8)."""
    height, width = shape.height, shape.width
    place = tl.full(pixel.shape, -1, tl.int32)
    if POOL:
        value = tl.zeros(pixel.shape, tl.float32)
        largest = tl.zeros(pixel.shape, tl.float32)
        columns = (width + 1) // 2
        for k in tl.static_range(9):
            row, column = pixel // columns * 2 - 1 + k // 3, pixel % columns * 2 - 1 + k % 3
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            other = tl.load(y + row * width + column, mask=there, other=0.0).to(tl.float32)
            x = tl.fma(other, scale, shift)
            better = there & ((place < 0) | (x > largest) | (x != x))  # NaN wins, as in PyTorch
            value = tl.where(better, other, value)
            largest = tl.where(better, x, largest)
            place = tl.where(better, k, place)
    else:
        value = tl.load(y + pixel, mask=inside, other=0.0).to(tl.float32)
    return value, place


@triton.jit
def _charge(v, x, rate, rest):
    """Eq 1: H."""
    return v + (x - (v - rest)) * rate


@triton.jit
def _after(h, cell, SOFT: tl.constexpr):
    """Eq 3: V after the spike, from H before it."""
    if SOFT:
        v = h - tl.where(h >= cell.threshold, cell.threshold, 0.0)
    else:
        v = tl.where(h >= cell.threshold, cell.rest, h)
    return v


@triton.jit
def _fire(
    y,
    norm,
    membrane,
    decay,
    spikes,
    after,
    steps,
    shape,
    cell,
    SOFT: tl.constexpr,
    POOL: tl.constexpr,
    SAME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """norm: `Scaling`; shape: `Shape`; cell: `Cell`."""
    plane = (tl.program_id(0) // shape.blocks).to(tl.int64)
    pixel = tl.program_id(0) % shape.blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < shape.size
    c = plane % shape.channels
    rate = tl.load(decay + c)
    a, b = 1.0, 0.0
    if norm.scale is not None:
        a, b = tl.load(norm.scale + c), tl.load(norm.shift + c)
    v = tl.zeros([BLOCK], tl.float32) + cell.rest
    if membrane is not None:
        v = tl.load(membrane + plane * shape.size + pixel, mask=inside, other=0.0).to(tl.float32)
    y += plane * shape.y_size
    spikes += plane * shape.size
    x = tl.zeros([BLOCK], tl.float32)
    if SAME:
        x = tl.fma(_behind(y, a, b, pixel, inside, shape, POOL)[0], a, b)
    for _ in range(steps):
        if not SAME:
            x = tl.fma(_behind(y, a, b, pixel, inside, shape, POOL)[0], a, b)
            y += shape.y_step
        h = _charge(v, x, rate, cell.rest)
        tl.store(spikes + pixel, (h >= cell.threshold).to(tl.float32), mask=inside)
        spikes += shape.step
        v = _after(h, cell, SOFT)
    tl.store(after + plane * shape.size + pixel, v, mask=inside)


@triton.jit
def _slope(u, SURROGATE: tl.constexpr, ALPHA: tl.constexpr):
    """The surrogate's gradient at u = H - V_th (`tdformer.surrogate`)."""
    if SURROGATE == "sigmoid":
        s = tl.sigmoid(u * ALPHA)
        slope = (1 - s) * s * ALPHA
    elif SURROGATE == "arctan":
        wide = u * (HALF_PI * ALPHA)
        slope = 1 / (wide * wide + 1) * (ALPHA / 2)
    else:
        tl.static_assert(SURROGATE == "rectangular")
        slope = tl.where(tl.abs(u) < 0.5 / ALPHA, ALPHA, 0.0)
    return slope


@triton.jit
def _reset_slope(h, slope, cell, SOFT: tl.constexpr, DETACH: tl.constexpr):
    """dV / dH of Eq 3, with or without the path through the spike."""
    if SOFT:
        kept = tl.zeros_like(h) + 1
        through = -cell.threshold * slope
    else:
        kept = (h < cell.threshold).to(tl.float32)
        through = (cell.rest - h) * slope
    if not DETACH:
        kept += through
    return kept


@triton.jit
def _fire_backward(
    y,
    norm,
    membrane,
    decay,
    grad_spikes,
    grad_membrane,
    grad,
    before,
    sums,
    steps,
    last,
    shape,
    cell,
    SOFT: tl.constexpr,
    SURROGATE: tl.constexpr,
    ALPHA: tl.constexpr,
    DETACH: tl.constexpr,
    POOL: tl.constexpr,
    SAME: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """norm: `Scaling`; sums: `Sums`; last: where the last step of grad_spikes begins; shape: `Shape`; cell: `Cell`."""
    rest, size, step, y_step = cell.rest, shape.size, shape.step, shape.y_step
    plane = (tl.program_id(0) // shape.blocks).to(tl.int64)
    pixel = tl.program_id(0) % shape.blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    c = plane % shape.channels
    rate = tl.load(decay + c)
    a, b, centre, inverse = 1.0, 0.0, 0.0, 0.0
    if norm.scale is not None:
        a, b = tl.load(norm.scale + c), tl.load(norm.shift + c)
        centre, inverse = tl.load(norm.mean + c), tl.load(norm.invstd + c)
    start = tl.zeros([BLOCK], tl.float32) + rest
    if membrane is not None:
        start = tl.load(membrane + plane * size + pixel, mask=inside, other=0.0).to(tl.float32)
    grad_v = tl.zeros([BLOCK], tl.float32)
    if grad_membrane is not None:
        grad_v = tl.load(grad_membrane + plane * size + pixel, mask=inside, other=0.0).to(tl.float32)
    y += plane * shape.y_size
    grad += plane * size
    grad_spikes += plane * size + last
    h = start
    if SAME:
        value = _behind(y, a, b, pixel, inside, shape, POOL)[0]
        x = tl.fma(value, a, b)
    else:
        v = start
        for _ in range(steps):
            x = tl.fma(_behind(y, a, b, pixel, inside, shape, POOL)[0], a, b)
            h = _charge(v, x, rate, rest)
            tl.store(grad + pixel, h, mask=inside)
            v = _after(h, cell, SOFT)
            y += y_step
            grad += step
    decay_total = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    normal_total = tl.zeros([BLOCK], tl.float32)
    for done in range(steps):
        left = steps - 1 - done
        if SAME:
            v = start
            h = _charge(v, x, rate, rest)
            for _ in range(left):
                v = _after(h, cell, SOFT)
                h = _charge(v, x, rate, rest)
        else:
            y -= y_step
            grad -= step
            value = _behind(y, a, b, pixel, inside, shape, POOL)[0]
            x = tl.fma(value, a, b)
            tl.debug_barrier()  # another thread of the program may have stored H, or may store over it below
            earlier, v = start, start
            if left > 0:
                earlier = tl.load(grad - step + pixel, mask=inside, other=0.0)
                v = _after(earlier, cell, SOFT)
        slope = _slope(h - cell.threshold, SURROGATE, ALPHA)
        grad_h = tl.load(grad_spikes + pixel, mask=inside, other=0.0).to(tl.float32) * slope
        grad_h += grad_v * _reset_slope(h, slope, cell, SOFT, DETACH)
        grad_spikes -= step
        decay_total += grad_h * (x - (v - rest))
        grad_v = grad_h * (1 - rate)
        grad_x = grad_h * rate
        total += grad_x
        if not SAME:
            tl.store(grad + pixel, grad_x, mask=inside)
            normal_total += grad_x * ((value - centre) * inverse)
            h = earlier
    if SAME:
        tl.store(grad + pixel, total, mask=inside)
        normal_total = total * ((value - centre) * inverse)
    if before is not None:
        tl.store(before + plane * size + pixel, grad_v, mask=inside)
    tl.store(sums.decay + tl.program_id(0), tl.sum(decay_total))
    tl.store(sums.grad + tl.program_id(0), tl.sum(total))
    tl.store(sums.normal + tl.program_id(0), tl.sum(normal_total))


@triton.jit
def _winners(y, norm, winners, shape, BLOCK: tl.constexpr):
    """Where in its window each current came from."""
    plane = (tl.program_id(0) // shape.blocks).to(tl.int64)
    pixel = tl.program_id(0) % shape.blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < shape.size
    c = plane % shape.channels
    a, b = tl.load(norm.scale + c), tl.load(norm.shift + c)
    place = _behind(y + plane * shape.y_size, a, b, pixel, inside, shape, True)[1]
    tl.store(winners + plane * shape.size + pixel, place, mask=inside)


@triton.jit
def _norm_backward(y, norm, means, grad, winners, shape, BLOCK: tl.constexpr):
    """A pixel in an odd row or column lies in two windows across or down; it gets the gradients of those it won."""
    width, size, grad_size = shape.width, shape.y_size, shape.size
    plane = (tl.program_id(0) // shape.blocks).to(tl.int64)
    pixel = tl.program_id(0) % shape.blocks * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < size
    c = plane % shape.channels
    grad += plane * grad_size
    if winners is None:
        g = tl.load(grad + pixel, mask=inside, other=0.0).to(tl.float32)
    else:
        winners += plane * grad_size
        columns = (width + 1) // 2
        row, column = pixel // width, pixel % width
        g = tl.zeros([BLOCK], tl.float32)
        for k in tl.static_range(4):
            r, s = row // 2 + k // 2, column // 2 + k % 2
            window = r * columns + s
            place = (row - 2 * r + 1) * 3 + column - 2 * s + 1
            over = inside & (row - 2 * r >= -1) & (column - 2 * s >= -1) & (window < grad_size) & (s < columns)
            won = tl.load(winners + window, mask=over, other=255).to(tl.int32) == place
            g += tl.load(grad + window, mask=over & won, other=0.0).to(tl.float32)
    place = y + plane * size + pixel
    away = tl.load(place, mask=inside, other=0.0).to(tl.float32) - tl.load(norm.mean + c)
    normal = away * tl.load(norm.invstd + c)
    centred = g - tl.load(means.grad + c) - normal * tl.load(means.grad_normal + c)
    tl.store(place, centred * tl.load(norm.scale + c), mask=inside)
