"""Triton programs over tiles of pixels and channels, and over bytes: `gpu` and `gpu_packing` launch them.

Numbers that follow from the batch's size are arguments of their own, for whose values nothing is compiled: else an
evaluation's last batch would have programs compiled anew. In a group of arguments Triton asks each whether it is 1 or a
multiple of 16, also where it is told not to.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

HALF_PI = tl.constexpr(math.pi / 2)


@triton.jit(do_not_specialize=["pixels", "y_step", "each", "tiles"])
def statistics(y, means, squares, counts, C, pixels, y_step, each, tiles, blocks, BM: tl.constexpr, BC: tl.constexpr):
    """Mean and summed squares around it, of the tiles that a program takes, every so-manieth, and of how many values;
    both are taken from the mean of its first tile. pixels: of a step; y_step: from one to the next; each: tiles of one;
    blocks: of channels."""
    programs = tl.num_programs(0) // blocks
    p = tl.program_id(0) // blocks
    column = tl.program_id(0) % blocks * BC + tl.arange(0, BC)
    known = column < C
    line = tl.arange(0, BM)
    at = line[:, None] * C + column[None, :]
    tile = p
    first = tile % each * BM
    here = y + ((tile // each).to(tl.int64) * y_step + first) * C
    mask = (first + line < pixels)[:, None] & known[None, :]
    value = tl.load(here + at, mask=mask, other=0.0).to(tl.float32)
    shift = tl.sum(value, 0) / tl.minimum(pixels - first, BM).to(tl.float32)
    one = tl.zeros([BM, BC], tl.float32)
    two = tl.zeros([BM, BC], tl.float32)
    count = p * 0
    for _ in range(tl.cdiv(tiles - p, programs)):
        first = tile % each * BM
        here = y + ((tile // each).to(tl.int64) * y_step + first) * C
        mask = (first + line < pixels)[:, None] & known[None, :]
        value = tl.load(here + at, mask=mask, other=0.0).to(tl.float32)
        away = tl.where(mask, value - shift[None, :], 0.0)
        one += away
        two += away * away
        count += tl.minimum(pixels - first, BM)
        tile += programs
    away = tl.sum(one, 0)
    total = count.to(tl.float32)
    tl.store(means + p * C + column, shift + away / total, mask=known)
    tl.store(squares + p * C + column, tl.maximum(tl.sum(two, 0) - away * (away / total), 0.0), mask=known)
    tl.store(counts + p * C + column, total + tl.zeros([BC], tl.float32), mask=known)


@triton.jit(do_not_specialize=["programs"])
def join(means, squares, counts, mean, var, share, C, programs, BP: tl.constexpr, BC: tl.constexpr):
    """Mean and biased variance of all values, from each program's own (Chan's formula). share: 1 over their number."""
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    known = column < C
    part = tl.arange(0, BP)
    total = tl.zeros([BP, BC], tl.float32)
    for start in range(0, programs, BP):
        mask = (start + part < programs)[:, None] & known[None, :]
        at = (start + part)[:, None] * C + column[None, :]
        total += tl.load(means + at, mask=mask, other=0.0) * tl.load(counts + at, mask=mask, other=0.0)
    centre = tl.sum(total, 0) * share
    spread = tl.zeros([BP, BC], tl.float32)
    for start in range(0, programs, BP):
        mask = (start + part < programs)[:, None] & known[None, :]
        at = (start + part)[:, None] * C + column[None, :]
        away = tl.load(means + at, mask=mask, other=0.0) - centre[None, :]
        spread += tl.load(squares + at, mask=mask, other=0.0)
        spread += away * away * tl.load(counts + at, mask=mask, other=0.0)
    tl.store(mean + column, centre, mask=known)
    tl.store(var + column, tl.sum(spread, 0) * share, mask=known)


@triton.jit
def _affine(norm, column, C, BC: tl.constexpr):
    """BatchNorm's scale and shift of a tile's channels."""
    a = tl.full([BC], 1.0, tl.float32)
    b = tl.zeros([BC], tl.float32)
    if norm.scale is not None:
        a = tl.load(norm.scale + column, mask=column < C, other=0.0)
        b = tl.load(norm.shift + column, mask=column < C, other=0.0)
    return a[None, :], b[None, :]


@triton.jit
def _behind(y, first, line, column, mask, C, sizes, a, b, POOL: tl.constexpr):
    """The value of y behind each current of a tile, in y's type, and where in its window it was (0 to 8). y: a step."""
    place = tl.zeros(mask.shape, tl.int32)
    if POOL:
        columns = (sizes.width + 1) // 2
        pixel = first + line
        image = pixel // ((sizes.height + 1) // 2 * columns)
        row = pixel // columns % ((sizes.height + 1) // 2) * 2 - 1
        col = pixel % columns * 2 - 1
        value = tl.zeros(mask.shape, tl.float32)
        largest = tl.zeros(mask.shape, tl.float32)
        unseen = line >= 0
        for k in tl.static_range(9):
            r, s = row + k // 3, col + k % 3
            there = (r >= 0) & (r < sizes.height) & (s >= 0) & (s < sizes.width)
            at = ((image * sizes.height + r) * sizes.width + s).to(tl.int64) * C
            here = there[:, None] & mask
            other = tl.load(y + at[:, None] + column[None, :], mask=here, other=0.0).to(tl.float32)
            x = tl.fma(other, a, b)
            better = here & (unseen[:, None] | (x > largest) | (x != x))  # NaN wins, as in PyTorch
            value = tl.where(better, other, value)
            largest = tl.where(better, x, largest)
            place = tl.where(better, k, place)
            unseen = unseen & (there == 0)
        value = value.to(y.dtype.element_ty)
    else:
        at = line[:, None] * C + column[None, :]
        value = tl.load(y + first.to(tl.int64) * C + at, mask=mask, other=0.0)
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
def _walk(values, v, a, b, rate, cell, SOFT: tl.constexpr, SAME: tl.constexpr, CHUNK: tl.constexpr):
    """H of each step of a chunk, and V behind the last one."""
    hs = ()
    for k in tl.static_range(CHUNK):
        h = _charge(v, tl.fma(values[0 if SAME else k].to(tl.float32), a, b), rate, cell.rest)
        hs = hs + (h,)
        v = _after(h, cell, SOFT)
    return hs, v


@triton.jit
def _eights(fired, BM: tl.constexpr, BC: tl.constexpr):
    """Spikes `[BM, BC]` as bytes `[BM, BC / 8]`, the first channel in the lowest bit."""
    weighed = fired.to(tl.int32).reshape(BM, BC // 8, 8) << tl.arange(0, 8)[None, None, :]
    return tl.sum(weighed, 2).to(tl.uint8)


@triton.jit(do_not_specialize=["pixels", "y_step"])
def fire(
    y,
    norm,
    cell,
    written,
    C,
    pixels,
    y_step,
    sizes,
    FIRES: tl.constexpr,
    SOFT: tl.constexpr,
    POOL: tl.constexpr,
    SAME: tl.constexpr,
    CHUNK: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """norm: `Scaling`; cell: `Cell`; written: `Spiked`; sizes: `Sizes`; pixels, y_step: as in `Cut`. A program has one
    tile."""
    block = tl.program_id(0) % sizes.blocks
    first = tl.program_id(0) // sizes.blocks * BM
    line = tl.arange(0, BM)
    column = block * BC + tl.arange(0, BC)
    mask = (first + line < pixels)[:, None] & (column < C)[None, :]
    at = first.to(tl.int64) * C + line[:, None] * C + column[None, :]
    byte = block * (BC // 8) + tl.arange(0, BC // 8 if BC >= 8 else 1)
    a, b = _affine(norm, column, C, BC)
    rate = tl.zeros([1, BC], tl.float32)
    v = tl.zeros([BM, BC], tl.float32) + cell.rest
    if FIRES:
        rate = tl.load(cell.decay + column, mask=column < C, other=0.0)[None, :]
    if cell.membrane is not None:
        v = tl.load(cell.membrane + at, mask=mask, other=0.0).to(tl.float32)
    same = _behind(y, first, line, column, mask, C, sizes, a, b, POOL)[0] if SAME else None
    for chunk in range(sizes.chunks):
        start = tl.cast(chunk, tl.int64) * CHUNK
        values = ()
        if SAME:
            values = values + (same,)
        else:
            for k in tl.static_range(CHUNK):
                here = y + (start + k) * y_step * C
                values = values + (_behind(here, first, line, column, mask, C, sizes, a, b, POOL)[0],)
        for k in tl.static_range(CHUNK):
            x = tl.fma(values[0 if SAME else k].to(tl.float32), a, b)
            step = (start + k) * pixels
            if FIRES:
                h = _charge(v, x, rate, cell.rest)
                fired = h >= cell.threshold
                tl.store(written.spikes + step * C + at, fired.to(tl.float32), mask=mask)
                if written.bits is not None:
                    rows = (step + first) * (C // 8) + line[:, None] * (C // 8)
                    some = (first + line < pixels)[:, None] & (byte < C // 8)[None, :]
                    tl.store(written.bits + rows + byte[None, :], _eights(fired, BM, BC), mask=some)
                v = _after(h, cell, SOFT)
            else:
                tl.store(written.spikes + step * C + at, x, mask=mask)
    if written.membrane is not None:
        tl.store(written.membrane + at, v, mask=mask)


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
def _pass_on(g, value, at, mask, column, one, two, norm, scale, written, C):
    """What a pass of `backward` does with d/d current of one step, g, and the value of y behind it: adds it to the
    sums, writes it, or writes d/d y. at: where that step's values lie."""
    if written.current is not None:
        tl.store(written.current + at, g, mask=mask)
    if norm.mean is not None:
        away = value.to(tl.float32) - tl.load(norm.mean + column, mask=column < C, other=0.0)[None, :]
        normal = away * tl.load(norm.invstd + column, mask=column < C, other=0.0)[None, :]
        if written.total is not None:
            one += g
            two += g * normal
        if written.y is not None:
            pull = tl.load(norm.grad + column, mask=column < C, other=0.0)[None, :]
            pull_normal = tl.load(norm.grad_normal + column, mask=column < C, other=0.0)[None, :]
            tl.store(written.y + at, (g - pull - normal * pull_normal) * scale, mask=mask)
    return one, two


@triton.jit(do_not_specialize=["pixels", "y_step", "grad_step"])
def backward(
    y,
    norm,
    cell,
    grads,
    written,
    C,
    pixels,
    y_step,
    grad_step,
    sizes,
    SOFT: tl.constexpr,
    SURROGATE: tl.constexpr,
    ALPHA: tl.constexpr,
    DETACH: tl.constexpr,
    POOL: tl.constexpr,
    SAME: tl.constexpr,
    CHUNK: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Either pass of backward, as `written` says. norm: `Scaling`; cell: `Cell`; grads: `Incoming`; written: `Pulled`;
    sizes: `Sizes`; pixels, y_step: as in `Cut`; grad_step: pixels from one step of the spikes' gradient to the
    next; SURROGATE None: there is no neuron, and what comes in is d/d current."""
    programs = tl.num_programs(0) // sizes.blocks
    p = tl.program_id(0) // sizes.blocks
    line = tl.arange(0, BM)
    column = tl.program_id(0) % sizes.blocks * BC + tl.arange(0, BC)
    known = column < C
    a, b = _affine(norm, column, C, BC)
    rate = tl.zeros([1, BC], tl.float32)
    if SURROGATE is not None:
        rate = tl.load(cell.decay + column, mask=known, other=0.0)[None, :]
    one = tl.zeros([BM, BC], tl.float32)
    two = tl.zeros([BM, BC], tl.float32)
    decays = tl.zeros([BM, BC], tl.float32)
    first = p * BM
    for _ in range(tl.cdiv(pixels - p * BM, programs * BM)):
        mask = (first + line < pixels)[:, None] & known[None, :]
        at = first.to(tl.int64) * C + line[:, None] * C + column[None, :]
        begin = tl.zeros([BM, BC], tl.float32) + cell.rest
        if cell.membrane is not None:
            begin = tl.load(cell.membrane + at, mask=mask, other=0.0).to(tl.float32)
        grad_v = tl.zeros([BM, BC], tl.float32)
        if grads.membrane is not None:
            grad_v = tl.load(grads.membrane + at, mask=mask, other=0.0).to(tl.float32)
        same = None
        if SAME:
            same, place = _behind(y, first, line, column, mask, C, sizes, a, b, POOL)
            if written.winners is not None:
                tl.store(written.winners + at, place, mask=mask)
        if written.starts is not None:
            u = begin
            for chunk in range(sizes.chunks - 1):
                values = ()
                if SAME:
                    values = values + (same,)
                else:
                    for k in tl.static_range(CHUNK):
                        here = y + (tl.cast(chunk, tl.int64) * CHUNK + k) * y_step * C
                        values = values + (_behind(here, first, line, column, mask, C, sizes, a, b, POOL)[0],)
                u = _walk(values, u, a, b, rate, cell, SOFT, SAME, CHUNK)[1]
                tl.store(written.starts + tl.cast(chunk, tl.int64) * pixels * C + at, u, mask=mask)
            tl.debug_barrier()  # another thread of the program may have stored what is loaded below
        total = tl.zeros([BM, BC], tl.float32)
        for done in range(sizes.chunks):
            now = tl.cast(sizes.chunks - 1 - done, tl.int64)
            v = begin
            if written.starts is not None:
                earlier = written.starts + (now - 1) * pixels * C + at
                v = tl.load(earlier, mask=mask & (now > 0), other=begin)
            pulls = ()
            for k in tl.static_range(CHUNK):
                of = grads.spikes + (now * CHUNK + k) * grad_step * C + at
                pulls = pulls + (tl.load(of, mask=mask, other=0.0),)
            values = ()
            if SAME:
                values = values + (same,)
            else:
                for k in tl.static_range(CHUNK):
                    here = y + (now * CHUNK + k) * y_step * C
                    value, place = _behind(here, first, line, column, mask, C, sizes, a, b, POOL)
                    values = values + (value,)
                    if written.winners is not None:
                        tl.store(written.winners + (now * CHUNK + k) * pixels * C + at, place, mask=mask)
            if SURROGATE is None:
                hs = pulls
            else:
                hs = _walk(values, v, a, b, rate, cell, SOFT, SAME, CHUNK)[0]
            for back in tl.static_range(CHUNK):
                g = pulls[CHUNK - 1 - back].to(tl.float32)
                value = values[0 if SAME else CHUNK - 1 - back]
                if SURROGATE is not None:
                    h = hs[CHUNK - 1 - back]
                    slope = _slope(h - cell.threshold, SURROGATE, ALPHA)
                    grad_h = g * slope + grad_v * _reset_slope(h, slope, cell, SOFT, DETACH)
                    if written.decay is not None:
                        before = v
                        if back < CHUNK - 1:
                            before = _after(hs[CHUNK - 2 - back], cell, SOFT)
                        decays += grad_h * (tl.fma(value.to(tl.float32), a, b) - (before - cell.rest))
                    grad_v = grad_h * (1 - rate)
                    g = grad_h * rate
                if SAME:
                    total += g
                else:
                    spot = (now * CHUNK + (CHUNK - 1 - back)) * pixels * C + at
                    one, two = _pass_on(g, value, spot, mask, column, one, two, norm, a, written, C)
        if SAME:
            one, two = _pass_on(total, same, at, mask, column, one, two, norm, a, written, C)
        if written.membrane is not None:
            tl.store(written.membrane + at, grad_v, mask=mask)
        first += programs * BM
    if written.total is not None:
        tl.store(written.total + p * C + column, tl.sum(one, 0), mask=known)
        tl.store(written.normal + p * C + column, tl.sum(two, 0), mask=known)
    if written.decay is not None:
        tl.store(written.decay + p * C + column, tl.sum(decays, 0), mask=known)


@triton.jit(do_not_specialize=["pixels", "whole", "y_step", "tiles"])
def scatter(y, norm, current, winners, out, C, pixels, whole, y_step, tiles, sizes, BM: tl.constexpr, BC: tl.constexpr):
    """d/d y from d/d current and the winners of the windows. A pixel in an odd row or column lies in two windows across
    or down; it gets the gradients of those it won. tiles: of a step of y; the rest as in `backward`."""
    column = tl.program_id(0) % sizes.blocks * BC + tl.arange(0, BC)
    tile = tl.program_id(0) // sizes.blocks
    step = (tile // tiles).to(tl.int64)
    pixel = tile % tiles * BM + tl.arange(0, BM)
    known = column < C
    inside = pixel < whole
    mask = inside[:, None] & known[None, :]
    image = pixel // (sizes.height * sizes.width)
    row, col = pixel // sizes.width % sizes.height, pixel % sizes.width
    rows, columns = (sizes.height + 1) // 2, (sizes.width + 1) // 2
    current += step * pixels * C
    winners += step * pixels * C
    g = tl.zeros([BM, BC], tl.float32)
    for k in tl.static_range(4):
        r, s = row // 2 + k // 2, col // 2 + k % 2
        place = (row - 2 * r + 1) * 3 + col - 2 * s + 1
        over = inside & (r < rows) & (s < columns) & (row - 2 * r >= -1) & (col - 2 * s >= -1)
        window = ((image * rows + r) * columns + s).to(tl.int64)[:, None] * C + column[None, :]
        there = over[:, None] & known[None, :]
        won = tl.load(winners + window, mask=there, other=255).to(tl.int32) == place[:, None]
        g += tl.load(current + window, mask=there & won, other=0.0).to(tl.float32)
    at = pixel.to(tl.int64)[:, None] * C + column[None, :]
    value = tl.load(y + step * y_step * C + at, mask=mask, other=0.0).to(tl.float32)
    away = value - tl.load(norm.mean + column, mask=known, other=0.0)[None, :]
    normal = away * tl.load(norm.invstd + column, mask=known, other=0.0)[None, :]
    centred = g - tl.load(norm.grad + column, mask=known, other=0.0)[None, :]
    centred -= normal * tl.load(norm.grad_normal + column, mask=known, other=0.0)[None, :]
    scale = tl.load(norm.scale + column, mask=known, other=0.0)[None, :]
    tl.store(out + step * whole * C + at, centred * scale, mask=mask)


@triton.jit(do_not_specialize=["blocks"])
def pack(x, y, total, data, count, size, blocks, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Values of an image, or the sums of two, as BITS-bit integers in bytes. y, total: None, or what is added to x, and
    where the sum goes."""
    EACH: tl.constexpr = 8 // BITS
    image = (tl.program_id(0) // blocks).to(tl.int64)
    byte = tl.program_id(0) % blocks * BYTES + tl.arange(0, BYTES)
    place = tl.arange(0, EACH)
    at = byte[:, None] * EACH + place[None, :]
    mask = at < count
    value = tl.load(x + image * count + at, mask=mask, other=0.0).to(tl.float32)
    if y is not None:
        value += tl.load(y + image * count + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(total + image * count + at, value, mask=mask)
    whole = tl.sum(value.to(tl.int32) << (place * BITS)[None, :], 1)
    tl.store(data + image * size + byte, whole.to(tl.uint8), mask=byte < size)


@triton.jit(do_not_specialize=["blocks"])
def unpack(data, values, count, size, blocks, BITS: tl.constexpr, BYTES: tl.constexpr):
    """BITS-bit integers of the bytes of an image, as values."""
    EACH: tl.constexpr = 8 // BITS
    image = (tl.program_id(0) // blocks).to(tl.int64)
    byte = tl.program_id(0) % blocks * BYTES + tl.arange(0, BYTES)
    place = tl.arange(0, EACH)
    at = byte[:, None] * EACH + place[None, :]
    whole = tl.load(data + image * size + byte, mask=byte < size, other=0).to(tl.int32)
    value = (whole[:, None] >> (place * BITS)[None, :]) & ((1 << BITS) - 1)
    tl.store(values + image * count + at, value.to(tl.float32), mask=at < count)
