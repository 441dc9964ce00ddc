"""Event-driven convolution on CPU: of a sparse input, only what is not zero is multiplied (numba).

The convolution is a product of a sparse matrix, a row for each output pixel, and the weights. Each row is summed by one
thread in one order, so results do not depend on the number of threads. Above a tenth of the inputs the dense
convolution is faster and taken. (The weight gradient gains nothing in a training step, where its operands come from
memory: it stays dense.)
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .cpu import Array, exact, spread

DENSEST = 0.1
"""The share of inputs that are not zero up to which events are faster."""
SAMPLE = 8
"""Every how many channels are looked at to find out."""
SMALLEST = 2**17
"""Inputs below which there is nothing to gain."""
FEWEST = 64
"""Output channels below which finding the events costs what their product saves."""
CACHE = 3 * 2**16
"""Floats of the dense factor that a core's cache holds."""
PIXELS = 64
"""Output pixels written at once, so that their channels can be turned in the cache; images need two such blocks."""

_fast = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


class Events:
    """What is not zero in x `[M, C, H, W]`, for a k x k convolution with stride 1 and this padding."""

    def __init__(self, x: Tensor, kernel: int, padding: int) -> None:
        self.x, self.kernel, self.padding = x.numpy(), kernel, padding
        self.out = tuple(n + 2 * padding - kernel + 1 for n in x.shape[2:])
        self.depth = x.shape[1] * kernel * kernel

    def convolve(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """weight `[C', C, k, k]` -> `[M, C', H', W']`."""
        images, size, channels = self.x.shape[0], self.out[0] * self.out[1], weight.shape[0]
        start = torch.zeros(images * size + 1, dtype=torch.int64)
        index, value = torch.empty(0, dtype=torch.int32), torch.empty(0)
        self._by_pixel(start[1:], index, value)
        start = start.cumsum(0)
        index, value = index.new_empty(int(start[-1])), value.new_empty(int(start[-1]))
        self._by_pixel(start[:-1].clone(), index, value)
        width = _tile(channels, self.depth)
        factor = torch.empty(channels // width, self.depth, width)
        rows = weight.reshape(channels, self.depth).numpy()
        spread(_turn, channels // width, weight.numel(), rows, width, factor.numpy())
        y = torch.empty(images, channels, *self.out)
        blocks = images * -(-size // PIXELS)
        spread(
            _multiply,
            blocks,
            self.x.size,
            start.numpy(),
            index.numpy(),
            value.numpy(),
            factor.numpy(),
            (torch.zeros(channels) if bias is None else bias).numpy(),
            y.view(images, channels, size).numpy(),
        )
        return y

    def _by_pixel(self, *arrays: Tensor) -> None:
        fixed = (self.x, self.kernel, self.padding, *self.out)
        spread(_by_pixel, self.x.shape[0], self.x.size, *fixed, *(a.numpy() for a in arrays))


def events_of(x: Tensor, weight: Tensor, stride: int, padding: int) -> Events | None:
    """The events of x where they are the faster way, which depends on x alone (on a sample of it); else None."""
    if stride != 1 or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return None
    if x.numel() < SMALLEST or len(weight) < FEWEST or x[0, 0].numel() < 2 * PIXELS:
        return None
    x = x.detach().contiguous()
    counts = torch.zeros(x.shape[0], dtype=torch.int64)
    spread(_count, len(x), x.numel(), x.view(*x.shape[:2], -1).numpy(), counts.numpy())
    sampled = len(x) * -(-x.shape[1] // SAMPLE) * x[0, 0].numel()
    return Events(x, weight.shape[2], padding) if int(counts.sum()) <= DENSEST * sampled else None


def _tile(channels: int, depth: int) -> int:
    """How many output channels to take at once: a divisor of their number for which the factor stays in the cache."""
    most = max(16, CACHE // depth)
    return max(n for n in range(1, channels + 1) if channels % n == 0 and (n <= most or n == 1))


@exact
def _count(first: int, last: int, x: Array, counts: Array) -> None:
    """How many values of some channels of each image are not zero."""
    for m in range(first, last):
        for c in range(0, x.shape[1], SAMPLE):
            row, total = x[m, c], np.int32(0)
            for p in range(row.size):
                total += np.int32(row[p] != 0)
            counts[m] += total


@exact
def _by_pixel(
    first: int,
    last: int,
    x: Array,
    kernel: int,
    padding: int,
    height: int,
    width: int,
    cursor: Array,
    index: Array,
    value: Array,
) -> None:
    """Each output pixel's entries from its cursor on, which moves behind them; with an empty index they are only
    counted."""
    size, fill = height * width, index.size > 0
    for m in range(first, last):
        own = cursor[m * size : (m + 1) * size]
        for c in range(x.shape[1]):
            if kernel == 1:
                plane = x[m, c].reshape(-1)
                for p in range(size):
                    if plane[p] != 0:
                        if fill:
                            index[own[p]], value[own[p]] = c, plane[p]
                        own[p] += 1
                continue
            for i in range(x.shape[2]):
                row = x[m, c, i]
                for j in range(x.shape[3]):
                    if row[j] != 0:
                        for ky in range(max(0, i + padding - height + 1), min(kernel, i + padding + 1)):
                            for kx in range(max(0, j + padding - width + 1), min(kernel, j + padding + 1)):
                                p = (i + padding - ky) * width + j + padding - kx
                                if fill:
                                    index[own[p]], value[own[p]] = (c * kernel + ky) * kernel + kx, row[j]
                                own[p] += 1


@njit(inline="always")
def _gather(start: int, end: int, index: Array, value: Array, factor: Array, tile: int, total: Array) -> None:
    """total += the sum of value times a row of the factor, over some entries; four rows at once."""
    at = start
    while at + 4 <= end:
        a, b = factor[tile, index[at]], factor[tile, index[at + 1]]
        c, d = factor[tile, index[at + 2]], factor[tile, index[at + 3]]
        va, vb, vc, vd = value[at], value[at + 1], value[at + 2], value[at + 3]
        for i in range(total.size):
            total[i] += (va * a[i] + vb * b[i]) + (vc * c[i] + vd * d[i])
        at += 4
    while at < end:
        a, va = factor[tile, index[at]], value[at]
        for i in range(total.size):
            total[i] += va * a[i]
        at += 1


@_fast
def _multiply(
    first: int, last: int, start: Array, index: Array, value: Array, factor: Array, bias: Array, y: Array
) -> None:
    """Blocks of output pixels times all tiles of channels; a tile of the factor stays in the cache for all blocks."""
    size, width = y.shape[2], factor.shape[2]
    per_image = (size + PIXELS - 1) // PIXELS
    found = np.empty((PIXELS, width), np.float32)
    for tile in range(factor.shape[0]):
        for block in range(first, last):
            m, begin = block // per_image, block % per_image * PIXELS
            count = min(PIXELS, size - begin)
            for p in range(count):
                total = found[p]
                total[:] = bias[tile * width : (tile + 1) * width]
                row = m * size + begin + p
                _gather(start[row], start[row + 1], index, value, factor, tile, total)
            for i in range(width):
                line = y[m, tile * width + i]
                for p in range(count):
                    line[begin + p] = found[p, i]


@exact
def _turn(first: int, last: int, rows: Array, width: int, factor: Array) -> None:
    """rows `[R, K]` -> factor `[R / width, K, width]`, tiles first to last, in blocks that the cache holds."""
    depth = rows.shape[1]
    for tile in range(first, last):
        out = factor[tile]
        for begin in range(0, depth, 64):
            for left in range(0, width, 16):
                for k in range(begin, min(begin + 64, depth)):
                    for i in range(left, min(left + 16, width)):
                        out[k, i] = rows[tile * width + i, k]
