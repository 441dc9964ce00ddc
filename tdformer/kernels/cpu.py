"""The fused neuron on CPU: numba functions over channels, spread over as many threads as PyTorch uses.

Each channel is summed by one thread in one order, so results do not depend on the number of threads. H must come out
the same in both directions, so only the sums allow LLVM to re-order.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from math import pi
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..options import NeuronOptions
from .reference import Gradients, Norm

SURROGATES = ("sigmoid", "arctan", "rectangular")


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.statistics`."""
    planes = _array(y).reshape(y.shape[0], y.shape[1], -1)
    mean, var = np.empty(y.shape[1], np.float32), np.empty(y.shape[1], np.float32)
    _spread(_statistics, y.shape[1], y.numel(), planes, mean, var)
    return torch.from_numpy(mean), torch.from_numpy(var)


def fire(
    y: Tensor, norm: Norm | None, membrane: Tensor | None, decay: Tensor, o: NeuronOptions, pool: bool, steps: int
) -> tuple[Tensor, Tensor]:
    """See `reference.fire`."""
    _, batch, channels, *size = y.shape
    shape = (batch, channels, *(_halves(size) if pool else size))
    spikes = torch.empty(steps, *shape, dtype=torch.float32, device=y.device)
    after = torch.empty(shape, dtype=torch.float32, device=y.device)
    _spread(
        _fire,
        channels,
        spikes.numel(),
        _array(y),
        *_affine(norm, channels),
        _planes(membrane),
        _array(decay),
        *_neuron(o),
        pool,
        _planes(spikes),
        _planes(after),
    )
    return spikes.to(y.dtype), after


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
    """See `reference.fire_backward`."""
    channels = y.shape[2]
    grad = torch.empty(y.shape[0], *grad_spikes.shape[1:], dtype=torch.float32, device=y.device)
    before = None if membrane is None else torch.empty(membrane.shape, dtype=torch.float32, device=y.device)
    sums = torch.zeros(3, channels)
    _spread(
        _fire_backward,
        channels,
        grad_spikes.numel(),
        _array(y),
        *_affine(norm, channels),
        *((_array(norm.mean), _array(norm.invstd)) if norm is not None else (np.zeros(0, np.float32),) * 2),
        _planes(membrane),
        _array(decay),
        *_neuron(o),
        SURROGATES.index(o.surrogate),
        np.float32(o.alpha),
        o.detach_reset,
        pool,
        decay.requires_grad,
        _planes(grad_spikes),
        _planes(grad_membrane),
        _planes(grad),
        _planes(before),
        sums.numpy(),
    )
    return Gradients(grad, before, *sums)


def norm_backward(
    y: Tensor, norm: Norm, grad: Tensor, mean_grad: Tensor, mean_grad_normal: Tensor, pool: bool
) -> Tensor:
    """See `reference.norm_backward`; written over y where that is fp32."""
    out = y.float().contiguous()
    _spread(
        _norm_backward,
        y.shape[2],
        y.numel(),
        _array(out),
        *_affine(norm, y.shape[2]),
        _array(norm.mean),
        _array(norm.invstd),
        _array(mean_grad),
        _array(mean_grad_normal),
        pool,
        _planes(grad),
    )
    return out.to(y.dtype)


def _array(x: Tensor) -> Any:
    return x.detach().float().contiguous().numpy()


def _planes(x: Tensor | None) -> Any:
    """`[..., B, C, h, w]` as `[n, B, C, h w]`; nothing has n = 0."""
    if x is None:
        return np.empty((0, 0, 0, 0), np.float32)
    return _array(x).reshape(-1, *x.shape[-4:-2], x.shape[-2] * x.shape[-1])


def _halves(size: list[int]) -> list[int]:
    return [(n + 1) // 2 for n in size]


def _affine(norm: Norm | None, channels: int) -> tuple[Any, Any]:
    if norm is None:
        return np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return _array(norm.scale), _array(norm.shift)


def _neuron(o: NeuronOptions) -> tuple[Any, Any, bool]:
    """Threshold, V_reset, and whether the reset subtracts."""
    return np.float32(o.threshold), np.float32(o.v_reset or 0.0), o.v_reset is None


@lru_cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "neurons")


os.register_at_fork(after_in_child=_threads.cache_clear)


def _spread(kernel: Callable[..., None], count: int, work: int, *args: Any) -> None:
    """kernel(first, last, *args) over `count` channels or images, by several threads where there is enough to do."""
    parts = min(torch.get_num_threads(), count) if work > 1 << 15 else 1
    edges = [count * i // parts for i in range(parts + 1)]
    others = [_threads(parts - 1).submit(kernel, a, b, *args) for a, b in pairwise(edges[1:])]
    kernel(0, edges[1], *args)
    for other in others:
        other.result()


_exact = njit(nogil=True, cache=True, error_model="numpy", inline="never")
_summing = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_summing
def _sum(x: Any) -> Any:
    total = np.float32(0)
    for i in range(x.size):
        total += x[i]
    return total


@_summing
def _sum_squares(x: Any, mean: Any) -> Any:
    total = np.float32(0)
    for i in range(x.size):
        total += (x[i] - mean) * (x[i] - mean)
    return total


@_summing
def _sum_normal(g: Any, y: Any, mean: Any) -> Any:
    total = np.float32(0)
    for i in range(g.size):
        total += g[i] * (y[i] - mean)
    return total


@_exact
def _statistics(first: int, last: int, planes: Any, mean: Any, var: Any) -> None:
    """Each plane's own mean and squares, joined by the parallel formula: one read of y from memory."""
    size = planes.shape[2]
    for c in range(first, last):
        centre, squares = 0.0, 0.0
        for m in range(planes.shape[0]):
            own = np.float64(_sum(planes[m, c])) / size
            delta = own - centre
            centre += delta / (m + 1)
            squares += np.float64(_sum_squares(planes[m, c], np.float32(own))) + delta * delta * size * m / (m + 1)
        mean[c], var[c] = centre, squares / (planes.shape[0] * size)


@_exact
def _first_largest(best: Any, row: Any, line: Any, place: Any, scale: Any, shift: Any) -> None:
    """Take up one more row of the windows."""
    for j in range(line.size):
        x = line[j] * scale + shift
        larger = x > best[j] or x != x  # NaN wins, as in PyTorch
        row[j] = place if larger else row[j]
        best[j] = x if larger else best[j]


@_exact
def _windows(plane: Any, scale: Any, shift: Any, current: Any, winner: Any, z: Any) -> None:
    """3 x 3 windows, stride 2: each one's largest current and the place of the first pixel that has it.

    z `[2, W + 2]`: a column of windows in each of its inner places, its largest current and that one's row.
    """
    height, width = plane.shape
    out_w = (width + 1) // 2
    best, row = z[0], z[1]
    best[0] = best[width + 1] = -np.inf
    row[0] = row[width + 1] = np.inf
    for r in range((height + 1) // 2):
        top = max(0, 2 * r - 1)
        best[1 : width + 1] = -np.inf
        row[1 : width + 1] = top
        for i in range(top, min(height, 2 * r + 2)):
            _first_largest(best[1 : width + 1], row[1 : width + 1], plane[i], np.float32(i), scale, shift)
        _largest_of_three(best, row, width, current[r * out_w :], winner[r * out_w :])


@_exact
def _largest_of_three(best: Any, row: Any, width: int, current: Any, winner: Any) -> None:
    """Starts in the middle, which is always inside the picture, also where everything is NaN."""
    for j in range((width + 1) // 2):
        left, x, right = best[2 * j], best[2 * j + 1], best[2 * j + 2]
        left_row, place, right_row = row[2 * j], row[2 * j + 1], row[2 * j + 2]
        column = 2 * j
        first = left > x or (left == x and left_row <= place) or left != left
        x = left if first else x
        place = left_row if first else place
        column = column - 1 if first else column
        last = right > x or (right == x and right_row < place) or right != right
        x = right if last else x
        place = right_row if last else place
        column = 2 * j + 1 if last else column
        current[j] = x
        winner[j] = np.int32(place) * width + column


@_exact
def _currents(y: Any, s: int, n: int, c: int, scale: Any, shift: Any, pool: bool, x: Any, winner: Any, z: Any) -> None:
    plane = y[s, n, c]
    if pool:
        _windows(plane, scale, shift, x, winner, z)
    else:
        flat = plane.reshape(-1)
        for i in range(flat.size):
            x[i] = flat[i] * scale + shift


@_exact
def _charge(x: Any, v: Any, rate: Any, threshold: Any, rest: Any, soft: bool, h: Any) -> None:
    """Eqs 1 and 3: H into `h`, V into `v`."""
    for i in range(x.size):
        u = v[i] + (x[i] - (v[i] - rest)) * rate
        h[i] = u
        if soft:
            v[i] = u - threshold if u >= threshold else u
        else:
            v[i] = rest if u >= threshold else u


@_exact
def _fire(
    first: int,
    last: int,
    y: Any,
    scale: Any,
    shift: Any,
    membrane: Any,
    decay: Any,
    threshold: Any,
    rest: Any,
    soft: bool,
    pool: bool,
    spikes: Any,
    after: Any,
) -> None:
    steps, batch, _, size = spikes.shape
    x, h = np.empty(size, np.float32), np.empty(size, np.float32)
    winner, z = np.empty(size if pool else 0, np.int32), np.empty((2, y.shape[4] + 2), np.float32)
    one = np.float32(1)
    zero = np.float32(0)
    for c in range(first, last):
        for n in range(batch):
            v = after[0, n, c]
            if membrane.shape[0]:
                v[:] = membrane[0, n, c]
            else:
                v[:] = rest
            for t in range(steps):
                if t < y.shape[0]:
                    _currents(y, t, n, c, scale[c], shift[c], pool, x, winner, z)
                _charge(x, v, decay[c], threshold, rest, soft, h)
                out = spikes[t, n, c]
                for i in range(size):
                    out[i] = one if h[i] >= threshold else zero


@_exact
def _slopes(h: Any, threshold: Any, surrogate: int, alpha: Any, slope: Any) -> None:
    """The surrogate's gradient at each H."""
    one = np.float32(1)
    if surrogate == 0:  # alpha e / (1 + e)^2 with e = exp(-alpha |u|): 2^-k exp(-r), |r| <= ln(2) / 2
        bits = np.empty(h.size, np.int32)
        power = bits.view(np.float32)
        for i in range(h.size):
            a = min(abs((h[i] - threshold) * alpha), np.float32(80))
            k = np.int32(a * np.float32(1.4426950408889634) + np.float32(0.5))
            f = np.float32(k)
            r = (a - f * np.float32(0.693359375)) + f * np.float32(2.12194440e-4)
            bits[i] = (np.int32(127) - k) << np.int32(23)
            p = np.float32(1.0 / 720) * r - np.float32(1.0 / 120)
            p = p * r + np.float32(1.0 / 24)
            p = p * r - np.float32(1.0 / 6)
            p = p * r + np.float32(0.5)
            p = p * r - one
            slope[i] = p * r + one
        for i in range(h.size):
            e = slope[i] * power[i]
            slope[i] = alpha * e / ((one + e) * (one + e))
    elif surrogate == 1:
        wide = np.float32(pi / 2) * alpha
        for i in range(h.size):
            u = (h[i] - threshold) * wide
            slope[i] = alpha * np.float32(0.5) / (one + u * u)
    else:
        half = np.float32(0.5) / alpha
        for i in range(h.size):
            slope[i] = alpha if abs(h[i] - threshold) < half else np.float32(0)


@_exact
def _discharge(
    h: Any, grad_spikes: Any, grad_v: Any, threshold: Any, rest: Any, soft: bool, detach: bool, slope: Any
) -> None:
    """d/dH into `slope`, from the gradients of the spikes and of V."""
    zero, one = np.float32(0), np.float32(1)
    if soft and detach:
        for i in range(h.size):
            slope[i] = grad_spikes[i] * slope[i] + grad_v[i]
    elif soft:
        for i in range(h.size):
            slope[i] = grad_spikes[i] * slope[i] + grad_v[i] * (one - threshold * slope[i])
    elif detach:
        for i in range(h.size):
            slope[i] = grad_spikes[i] * slope[i] + (zero if h[i] >= threshold else grad_v[i])
    else:
        for i in range(h.size):
            kept = zero if h[i] >= threshold else one
            slope[i] = grad_spikes[i] * slope[i] + grad_v[i] * (kept + (rest - h[i]) * slope[i])


@_exact
def _pass_on(grad_h: Any, rate: Any, add: bool, grad_v: Any, grad_x: Any) -> None:
    """d/dV of the step before, and d/dX."""
    keep = np.float32(1) - rate
    if add:
        for i in range(grad_h.size):
            grad_v[i] = grad_h[i] * keep
            grad_x[i] += grad_h[i] * rate
    else:
        for i in range(grad_h.size):
            grad_v[i] = grad_h[i] * keep
            grad_x[i] = grad_h[i] * rate


@_exact
def _fire_backward(
    first: int,
    last: int,
    y: Any,
    scale: Any,
    shift: Any,
    mean: Any,
    invstd: Any,
    membrane: Any,
    decay: Any,
    threshold: Any,
    rest: Any,
    soft: bool,
    surrogate: int,
    alpha: Any,
    detach: bool,
    pool: bool,
    learned: bool,
    grad_spikes: Any,
    grad_membrane: Any,
    grad: Any,
    before: Any,
    sums: Any,
) -> None:
    steps, batch, _, size = grad_spikes.shape
    x, v = np.empty(size, np.float32), np.empty(size, np.float32)
    gv, slope = np.empty(size, np.float32), np.empty(size, np.float32)
    h = np.empty((steps, size), np.float32)
    winners = np.empty((y.shape[0], size if pool else 0), np.int32)
    z = np.empty((2, y.shape[4] + 2), np.float32)
    won = np.empty(size if pool else 0, np.float32)
    zero = np.float32(0)
    same = y.shape[0] == 1
    for c in range(first, last):
        rate = decay[c]
        total, total_normal, total_decay = 0.0, 0.0, 0.0
        for n in range(batch):
            if membrane.shape[0]:
                v[:] = membrane[0, n, c]
            else:
                v[:] = rest
            for t in range(steps):
                if t < y.shape[0]:
                    _currents(y, t, n, c, scale[c], shift[c], pool, x, winners[t], z)
                _charge(x, v, rate, threshold, rest, soft, h[t])
            if grad_membrane.shape[0]:
                gv[:] = grad_membrane[0, n, c]
            else:
                gv[:] = zero
            if same:
                grad[0, n, c, :] = zero
            for t in range(steps - 1, -1, -1):
                ht, gs, gx = h[t], grad_spikes[t, n, c], grad[0 if same else t, n, c]
                _slopes(ht, threshold, surrogate, alpha, slope)
                _discharge(ht, gs, gv, threshold, rest, soft, detach, slope)
                if learned:
                    own = 0.0
                    for i in range(size):
                        u = h[t - 1, i] if t > 0 else rest
                        if t > 0:
                            if soft:
                                u = u - threshold if u >= threshold else u
                            else:
                                u = rest if u >= threshold else u
                        elif membrane.shape[0]:
                            u = membrane[0, n, c, i]
                        own += slope[i] * (ht[i] - u)
                    total_decay += own / rate
                _pass_on(slope, rate, same, gv, gx)
            if before.shape[0]:
                before[0, n, c, :] = gv
            if mean.size:
                for s in range(y.shape[0]):
                    g = grad[s, n, c]
                    total += _sum(g)
                    if pool:
                        flat = y[s, n, c].reshape(-1)
                        for i in range(size):
                            won[i] = flat[winners[s, i]]
                        total_normal += _sum_normal(g, won, mean[c])
                    else:
                        total_normal += _sum_normal(g, y[s, n, c].reshape(-1), mean[c])
        sums[0, c] = total_decay
        sums[1, c] = total
        if mean.size:
            sums[2, c] = total_normal * invstd[c]


@_exact
def _norm_backward(
    first: int,
    last: int,
    y: Any,
    scale: Any,
    shift: Any,
    mean: Any,
    invstd: Any,
    mean_grad: Any,
    mean_grad_normal: Any,
    pool: bool,
    grad: Any,
) -> None:
    """scale (g - mean_grad - normal mean_grad_normal) as scale g + slope y + constant, over y."""
    size = grad.shape[3]
    x, winner = np.empty(size, np.float32), np.empty(size if pool else 0, np.int32)
    z = np.empty((2, y.shape[4] + 2), np.float32)
    for c in range(first, last):
        a = scale[c]
        slope = -a * invstd[c] * mean_grad_normal[c]
        constant = -a * mean_grad[c] - slope * mean[c]
        for s in range(y.shape[0]):
            for n in range(y.shape[1]):
                g, flat = grad[s, n, c], y[s, n, c].reshape(-1)
                if pool:
                    _windows(y[s, n, c], a, shift[c], x, winner, z)
                    for i in range(flat.size):
                        flat[i] = flat[i] * slope + constant
                    for i in range(size):
                        flat[winner[i]] += a * g[i]
                else:
                    for i in range(size):
                        flat[i] = a * g[i] + flat[i] * slope + constant


def pack(x: Tensor, bits: int) -> Tensor:
    """See `reference.pack`."""
    values = _array(x).reshape(x.shape[0], -1)
    data = torch.empty(len(values), -(-values.shape[1] * bits // 8), dtype=torch.uint8)
    _spread(_pack, len(values), values.size, values, bits, data.numpy())
    return data


def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `reference.unpack`."""
    values = torch.empty(len(data), count, dtype=torch.float32)
    _spread(_unpack, len(data), values.numel(), data.contiguous().numpy(), bits, values.numpy())
    return values.to(dtype)


@_exact
def _pack(first: int, last: int, values: Any, bits: int, data: Any) -> None:
    each = 8 // bits
    for m in range(first, last):
        row, out = values[m], data[m]
        whole = row.size // each
        for i in range(whole):
            byte = 0
            for k in range(each):
                byte |= int(row[i * each + k]) << (bits * k)
            out[i] = byte
        if whole < out.size:
            byte = 0
            for k in range(row.size - whole * each):
                byte |= int(row[whole * each + k]) << (bits * k)
            out[whole] = byte


@_exact
def _unpack(first: int, last: int, data: Any, bits: int, values: Any) -> None:
    each = 8 // bits
    table = np.empty((256, each), np.float32)
    for byte in range(256):
        for k in range(each):
            table[byte, k] = np.float32((byte >> (bits * k)) & ((1 << bits) - 1))
    for m in range(first, last):
        row, out = data[m], values[m]
        whole = out.size // each
        for i in range(whole):
            entry = table[row[i]]
            for k in range(each):
                out[i * each + k] = entry[k]
        for i in range(whole * each, out.size):
            out[i] = table[row[whole], i - whole * each]
