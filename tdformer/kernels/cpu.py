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
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from . import reference
from .protocol import Drive, Fired, Gradients, Means, Norm
from .reference import affine as affine

Array = NDArray[np.generic]
Real = float | np.float32
Room = tuple[Array, Array, Array]

SURROGATES = ("sigmoid", "arctan", "rectangular")
BLOCK = 1024
"""Pixels of one channel taken at once, of several images where they are small."""


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `protocol.Backend`."""
    channels = y.shape[-3]
    planes = _array(y).reshape(-1, channels, y.shape[-2] * y.shape[-1])
    mean, var = np.empty(channels, np.float32), np.empty(channels, np.float32)
    spread(_statistics, channels, y.numel(), planes, mean, var)
    return torch.from_numpy(mean), torch.from_numpy(var)


class Scaling(NamedTuple):
    """A `Norm` as the numba functions take it; without one, mean and invstd have no element."""

    mean: Array
    invstd: Array
    scale: Array
    shift: Array


class Unit(NamedTuple):
    """A `Drive` as the numba functions take it: planes `[n, B, C, h w]`, of which n = 0 where there is none."""

    y: Array
    norm: Scaling
    membrane: Array
    decay: Array
    threshold: np.float32
    rest: np.float32
    soft: bool
    pool: bool


class Slope(NamedTuple):
    """The gradient of the spikes: the surrogate's place in SURROGATES, its alpha, and whether the reset passes any."""

    surrogate: int
    alpha: np.float32
    detach: bool


def fire(drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
    """See `protocol.Backend`; it makes the last potential in any case, and no bits."""
    if drive.neuron is None:
        return reference.fire(drive, steps)
    _, batch, channels, *size = drive.y.shape
    shape = (batch, channels, *(_halves(size) if drive.pool else size))
    spikes = torch.empty(steps, *shape, dtype=torch.float32, device=drive.y.device)
    after = torch.empty(shape, dtype=torch.float32, device=drive.y.device)
    spread(_fire, channels, spikes.numel(), _unit(drive), _planes(spikes), _planes(after))
    return Fired(spikes.to(drive.y.dtype), after)


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    """See `protocol.Backend`."""
    y, o, membrane = drive.y, drive.neuron, drive.membrane
    if o is None or drive.decay is None:
        return reference.fire_backward(drive, grad_spikes, grad_membrane)
    channels = y.shape[2]
    grad = torch.empty(y.shape[0], *grad_spikes.shape[1:], dtype=torch.float32, device=y.device)
    before = None if membrane is None else torch.empty(membrane.shape, dtype=torch.float32, device=y.device)
    sums = torch.zeros(3, channels)
    spread(
        _fire_backward,
        channels,
        grad_spikes.numel(),
        _unit(drive),
        Slope(SURROGATES.index(o.surrogate), np.float32(o.alpha), o.detach_reset),
        drive.decay.requires_grad,
        _planes(grad_spikes),
        _planes(grad_membrane),
        _planes(grad),
        _planes(before),
        sums.numpy(),
    )
    return Gradients(grad, None, before, *sums)


def norm_backward(
    drive: Drive,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    found: Gradients,
    means: Means,
    spare: bool,
) -> Tensor:
    """See `protocol.Backend`; written over y where that is fp32 and spare."""
    y, norm = drive.y, drive.norm
    assert norm is not None
    out = y.to(torch.float32, copy=not spare).contiguous()
    pulls = _array(means.grad), _array(means.grad_normal)
    grad = _planes(found.current)
    spread(_norm_backward, y.shape[2], y.numel(), _array(out), _scaling(norm), *pulls, drive.pool, grad)
    return out.to(y.dtype)


def _array(x: Tensor) -> Array:
    return x.detach().float().contiguous().numpy()


def _planes(x: Tensor | None) -> Array:
    """`[..., B, C, h, w]` as `[n, B, C, h w]`; nothing has n = 0."""
    if x is None:
        return np.empty((0, 0, 0, 0), np.float32)
    return _array(x).reshape(-1, *x.shape[-4:-2], x.shape[-2] * x.shape[-1])


def _halves(size: list[int]) -> list[int]:
    return [(n + 1) // 2 for n in size]


def _scaling(norm: Norm) -> Scaling:
    return Scaling(*(_array(x) for x in norm))


def _unit(drive: Drive) -> Unit:
    o, channels, none = drive.neuron, drive.y.shape[2], np.zeros(0, np.float32)
    assert o is not None and drive.decay is not None
    if drive.norm is None:
        norm = Scaling(none, none, np.ones(channels, np.float32), np.zeros(channels, np.float32))
    else:
        norm = _scaling(drive.norm)
    return Unit(
        _array(drive.y),
        norm,
        _planes(drive.membrane),
        _array(drive.decay),
        np.float32(o.threshold),
        np.float32(o.v_reset or 0.0),
        o.v_reset is None,
        drive.pool,
    )


@lru_cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "neurons")


os.register_at_fork(after_in_child=_threads.cache_clear)


def spread(kernel: Callable[..., None], count: int, work: int, *args: object) -> None:
    """kernel(first, last, *args) over `count` channels or images, by several threads where there is enough to do."""
    parts = min(torch.get_num_threads(), count) if work > 1 << 15 else 1
    edges = [count * i // parts for i in range(parts + 1)]
    others = [_threads(parts - 1).submit(kernel, a, b, *args) for a, b in pairwise(edges[1:])]
    kernel(0, edges[1], *args)
    for other in others:
        other.result()


exact = njit(nogil=True, cache=True, error_model="numpy", inline="never")
_summing = njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


def _fused(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z in one rounding, of three values of one type: its signature, and the instruction."""
    return x(x, x, x), lambda context, builder, signature, values: builder.fma(*values)


_fma: Any = intrinsic(_fused)


@_summing
def _sum(x: Array) -> Any:
    total = np.float32(0)
    for i in range(x.size):
        total += x[i]
    return total


@_summing
def _sum_squares(x: Array, mean: Real) -> Any:
    total = np.float32(0)
    for i in range(x.size):
        total += (x[i] - mean) * (x[i] - mean)
    return total


@_summing
def _sum_normal(g: Array, y: Array, mean: Real) -> Any:
    total = np.float32(0)
    for i in range(g.size):
        total += g[i] * (y[i] - mean)
    return total


@exact
def _statistics(first: int, last: int, planes: Array, mean: Array, var: Array) -> None:
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


@exact
def _first_largest(best: Array, row: Array, line: Array, place: Real) -> None:
    """Take up one more row of the windows."""
    for j in range(line.size):
        x = line[j]
        larger = x > best[j] or x != x  # NaN wins, as in PyTorch
        row[j] = place if larger else row[j]
        best[j] = x if larger else best[j]


@exact
def _largest_of_three(best: Array, row: Array, width: int, current: Array, winner: Array) -> None:
    """Starts in the middle, which is always inside the picture, also where everything is NaN."""
    for j in range(current.size):
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


@exact
def _room(y: Array, pool: bool, count: int) -> Room:
    """Scratch for `_pooled`: `count` pictures side by side, each followed by one or two columns that never win; a
    column of windows in each of their columns, its largest current and that one's row; a row of windows' results."""
    height, width = y.shape[3:]
    whole = count * (width + 2 - width % 2) if pool else 0
    strip = np.full((height, whole), np.float32(-np.inf))
    return strip, np.empty((3, whole + 2), np.float32), np.empty(whole // 2, np.int32)


@exact
def _pooled(
    y: Array, s: int, n: int, count: int, c: int, scale: Real, shift: Real, room: Room, current: Array, winner: Array
) -> None:
    """3 x 3 windows, stride 2: each one's largest current and the place of the first pixel that has it."""
    strip, lines, places = room
    height, width = y.shape[3:]
    out_h, out_w = (height + 1) // 2, (width + 1) // 2
    step = width + 2 - width % 2
    whole = count * step
    for m in range(count):
        for i in range(height):
            line, to = y[s, n + m, c, i], strip[i, m * step : m * step + width]
            for j in range(width):
                to[j] = _fma(line[j], scale, shift)
    best, row, found = lines[0], lines[1], lines[2]
    inner, inner_row = best[1 : whole + 1], row[1 : whole + 1]
    best[0] = best[whole + 1] = -np.inf
    for r in range(out_h):
        top = max(0, 2 * r - 1)
        for j in range(whole):
            inner[j] = -np.inf
            inner_row[j] = top
        for i in range(top, min(height, 2 * r + 2)):
            _first_largest(inner, inner_row, strip[i, :whole], np.float32(i))
        for m in range(count + 1):
            row[m * step] = np.inf
        row[whole + 1] = np.inf
        if count == 1:
            at = r * out_w
            _largest_of_three(best, row, width, current[at : at + out_w], winner[at : at + out_w])
            continue
        _largest_of_three(best, row, width, found[: whole // 2], places)
        for m in range(count):
            at, left = (m * out_h + r) * out_w, m * step // 2
            x, won = current[at : at + out_w], winner[at : at + out_w]
            own, place = found[left : left + out_w], places[left : left + out_w]
            for j in range(out_w):
                x[j] = own[j]
                won[j] = place[j] - m * step


@exact
def _start(x: Array, s: int, n: int, c: int) -> np.uint64:
    """Where a plane begins in x `[S, B, C, ...]`; unsigned, because LLVM vectorises loops over such places only."""
    return np.uint64(((s * x.shape[1] + n) * x.shape[2] + c) * x[0, 0, 0].size)


@exact
def _currents(
    y: Array,
    s: int,
    n: int,
    count: int,
    c: int,
    scale: Real,
    shift: Real,
    pool: bool,
    room: Room,
    x: Array,
    winner: Array,
) -> None:
    """Of one channel of `count` images from the n-th, side by side."""
    if pool:
        _pooled(y, s, n, count, c, scale, shift, room, x, winner)
        return
    if count == 1:
        plane = y[s, n, c].reshape(-1)
        for i in range(x.size):
            x[i] = _fma(plane[i], scale, shift)
        return
    size, flat = x.size // count, y.reshape(-1)
    for m in range(count):
        at, to = _start(y, s, n + m, c), np.uint64(m * size)
        for i in range(np.uint64(size)):
            x[to + i] = _fma(flat[at + i], scale, shift)


@exact
def _gathered(planes: Array, s: int, n: int, count: int, c: int, scratch: Array) -> Array:
    """One channel of `count` images from the n-th, side by side; of one image where it lies."""
    if count == 1:
        plane: Array = planes[s, n, c].reshape(-1)
        return plane
    size, flat = planes[0, 0, 0].size, planes.reshape(-1)
    for m in range(count):
        at, to = _start(planes, s, n + m, c), np.uint64(m * size)
        for i in range(np.uint64(size)):
            scratch[to + i] = flat[at + i]
    return scratch


@exact
def _winners(y: Array, s: int, n: int, count: int, c: int, winner: Array, scratch: Array) -> Array:
    """What won the pooling, like `_gathered`."""
    size, flat = winner.size // count, y.reshape(-1)
    for m in range(count):
        at, to = _start(y, s, n + m, c), np.uint64(m * size)
        for i in range(np.uint64(size)):
            scratch[to + i] = flat[at + np.uint64(winner[to + i])]
    return scratch


@exact
def _scatter(values: Array, planes: Array, s: int, n: int, count: int, c: int) -> None:
    """The inverse of `_gathered`."""
    size, flat = planes.shape[3], planes.reshape(-1)
    for m in range(count):
        at, of = _start(planes, s, n + m, c), np.uint64(m * size)
        for i in range(np.uint64(size)):
            flat[at + i] = values[of + i]


@exact
def _charge(x: Array, v: Array, rate: Real, threshold: Real, rest: Real, soft: bool, h: Array) -> None:
    """Eqs 1 and 3: H into `h`, V into `v`."""
    for i in range(x.size):
        u = v[i] + (x[i] - (v[i] - rest)) * rate
        h[i] = u
        if soft:
            v[i] = u - threshold if u >= threshold else u
        else:
            v[i] = rest if u >= threshold else u


@exact
def _fire(first: int, last: int, unit: Unit, spikes: Array, after: Array) -> None:
    y, scale, shift, membrane, decay = unit.y, unit.norm.scale, unit.norm.shift, unit.membrane, unit.decay
    threshold, rest, soft, pool = unit.threshold, unit.rest, unit.soft, unit.pool
    steps, batch, _, size = spikes.shape
    many = max(1, min(batch, BLOCK // size))
    own = np.empty((4, many * size), np.float32)
    winners = np.empty(many * size if pool else 0, np.int32)
    room = _room(y, pool, many)
    one = np.float32(1)
    zero = np.float32(0)
    for c in range(first, last):
        for n in range(0, batch, many):
            count = min(many, batch - n)
            pixels = count * size
            x, v, h, scratch = own[0, :pixels], own[1, :pixels], own[2, :pixels], own[3, :pixels]
            if membrane.shape[0]:
                v[:] = _gathered(membrane, 0, n, count, c, scratch)
            else:
                v[:] = rest
            for t in range(steps):
                if t < y.shape[0]:
                    _currents(y, t, n, count, c, scale[c], shift[c], pool, room, x, winners)
                _charge(x, v, decay[c], threshold, rest, soft, h)
                out = spikes[t, n, c] if count == 1 else scratch
                for i in range(pixels):
                    out[i] = one if h[i] >= threshold else zero
                if count > 1:
                    _scatter(out, spikes, t, n, count, c)
            _scatter(v, after, 0, n, count, c)


@exact
def _slopes(h: Array, threshold: Real, surrogate: int, alpha: Real, bits: Array, slope: Array) -> None:
    """The surrogate's gradient at each H; bits: int32 scratch of its size."""
    one = np.float32(1)
    if surrogate == 0:  # alpha e / (1 + e)^2 with e = exp(-alpha |u|): 2^-k exp(-r), |r| <= ln(2) / 2
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


@exact
def _discharge(
    h: Array, grad_spikes: Array, grad_v: Array, threshold: Real, rest: Real, soft: bool, detach: bool, slope: Array
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


@exact
def _pass_on(grad_h: Array, rate: Real, add: bool, grad_v: Array, grad_x: Array) -> None:
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


@exact
def _fire_backward(
    first: int,
    last: int,
    unit: Unit,
    slopes: Slope,
    learned: bool,
    grad_spikes: Array,
    grad_membrane: Array,
    grad: Array,
    before: Array,
    sums: Array,
) -> None:
    mean, invstd, scale, shift = unit.norm.mean, unit.norm.invstd, unit.norm.scale, unit.norm.shift
    y, membrane, decay, pool = unit.y, unit.membrane, unit.decay, unit.pool
    threshold, rest, soft = unit.threshold, unit.rest, unit.soft
    surrogate, alpha, detach = slopes.surrogate, slopes.alpha, slopes.detach
    steps, batch, _, size = grad_spikes.shape
    many = max(1, min(batch, BLOCK // size))
    own, bits = np.empty((6, many * size), np.float32), np.empty(many * size, np.int32)
    hs = np.empty((steps, many * size), np.float32)
    winners = np.empty((y.shape[0], many * size if pool else 0), np.int32)
    room = _room(y, pool, many)
    zero = np.float32(0)
    same = y.shape[0] == 1
    for c in range(first, last):
        rate = decay[c]
        total, total_normal, total_decay = 0.0, 0.0, 0.0
        for n in range(0, batch, many):
            count = min(many, batch - n)
            pixels = count * size
            x, v, gv = own[0, :pixels], own[1, :pixels], own[2, :pixels]
            slope, gx, scratch = own[3, :pixels], own[4, :pixels], own[5, :pixels]
            if membrane.shape[0]:
                v[:] = _gathered(membrane, 0, n, count, c, scratch)
            else:
                v[:] = rest
            for t in range(steps):
                if t < y.shape[0]:
                    _currents(y, t, n, count, c, scale[c], shift[c], pool, room, x, winners[t])
                _charge(x, v, rate, threshold, rest, soft, hs[t])
            if grad_membrane.shape[0]:
                gv[:] = _gathered(grad_membrane, 0, n, count, c, scratch)
            else:
                gv[:] = zero
            gx[:] = zero
            for t in range(steps - 1, -1, -1):
                h = hs[t, :pixels]
                _slopes(h, threshold, surrogate, alpha, bits, slope)
                gs = _gathered(grad_spikes, t, n, count, c, scratch)
                _discharge(h, gs, gv, threshold, rest, soft, detach, slope)
                if learned:
                    step = 0.0
                    for i in range(pixels):
                        u = hs[t - 1, i] if t > 0 else rest
                        if t > 0:
                            if soft:
                                u = u - threshold if u >= threshold else u
                            else:
                                u = rest if u >= threshold else u
                        elif membrane.shape[0]:
                            u = membrane[0, n + i // size, c, i % size]
                        step += slope[i] * (h[i] - u)
                    total_decay += step / rate
                _pass_on(slope, rate, same, gv, gx)
                if not same or t == 0:
                    s = 0 if same else t
                    _scatter(gx, grad, s, n, count, c)
                    if mean.size:
                        total += _sum(gx)
                        if pool:
                            source = _winners(y, s, n, count, c, winners[s, :pixels], scratch)
                        else:
                            source = _gathered(y, s, n, count, c, scratch)
                        total_normal += _sum_normal(gx, source, mean[c])
            if before.shape[0]:
                _scatter(gv, before, 0, n, count, c)
        sums[0, c] = total_decay
        sums[1, c] = total
        if mean.size:
            sums[2, c] = total_normal * invstd[c]


@exact
def _norm_backward(
    first: int,
    last: int,
    y: Array,
    norm: Scaling,
    mean_grad: Array,
    mean_grad_normal: Array,
    pool: bool,
    grad: Array,
) -> None:
    """scale (g - mean_grad - normal mean_grad_normal) as scale g + slope y + constant, over y."""
    mean, invstd, scale, shift = norm.mean, norm.invstd, norm.scale, norm.shift
    size, whole = np.uint64(grad.shape[3]), np.uint64(y[0, 0, 0].size)
    many = max(1, min(y.shape[1], BLOCK // grad.shape[3])) if pool else 1
    x, winner = np.empty(many * grad.shape[3], np.float32), np.empty(many * grad.shape[3], np.int32)
    room = _room(y, pool, many)
    g, flat = grad.reshape(-1), y.reshape(-1)
    for c in range(first, last):
        a = scale[c]
        slope = -a * invstd[c] * mean_grad_normal[c]
        constant = -a * mean_grad[c] - slope * mean[c]
        for s in range(y.shape[0]):
            for n in range(0, y.shape[1], many):
                count = min(many, y.shape[1] - n)
                if pool:
                    _pooled(y, s, n, count, c, a, shift[c], room, x, winner)
                for m in range(count):
                    at, of = _start(y, s, n + m, c), _start(grad, s, n + m, c)
                    if pool:
                        for i in range(whole):
                            flat[at + i] = flat[at + i] * slope + constant
                        for i in range(size):
                            flat[at + np.uint64(winner[np.uint64(m) * size + i])] += a * g[of + i]
                    else:
                        for i in range(size):
                            flat[at + i] = a * g[of + i] + flat[at + i] * slope + constant


def pack(x: Tensor, bits: int) -> Tensor:
    """See `protocol.Packer`."""
    values = _array(x).reshape(x.shape[0], -1)
    data = torch.empty(len(values), -(-values.shape[1] * bits // 8), dtype=torch.uint8)
    spread(_pack, len(values), values.size, values, bits, data.numpy())
    return data


def unpack(data: Tensor, bits: int, count: int, dtype: torch.dtype) -> Tensor:
    """See `protocol.Packer`."""
    values = torch.empty(len(data), count, dtype=torch.float32)
    spread(_unpack, len(data), values.numel(), data.contiguous().numpy(), bits, values.numpy())
    return values.to(dtype)


@exact
def _pack(first: int, last: int, values: Array, bits: int, data: Array) -> None:
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


@exact
def _unpack(first: int, last: int, data: Array, bits: int, values: Array) -> None:
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
