"""Erasing a batch on a GPU in one launch, a program for each picture, with the noise that numpy draws on a CPU.

numpy's generator is Philox4x64-10 (Salmon et al., SC 2011): four numbers of 64 bits from each count, so any of them can
be had without those before. Its normal numbers are of the ziggurat (Marsaglia and Tsang, 2000): of 256 layers one is
drawn with a place in it, by one number of 64 bits. 1.2 % of them lie outside what is surely under the curve, and draw
on: in a layer's wedge one number, which takes the place or begins anew; in the tail two at a time, until they fit. So
which number begins a draw depends on those before it. Here each number is a function from what the draw before it left
open to what it leaves open itself, and a scan composes them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from ..draws import normal_of
from .erase import Erasing

WORDS = 1024
"""Numbers of 64 bits that a program draws at once; pixels that it writes."""


def write_all(images: Tensor, rows: Tensor, how: Erasing, words: int = WORDS) -> None:
    """See `Erasing.write_all`; images in any order in memory."""
    channels, *_ = images.shape[1:]
    device = images.device
    with torch.cuda.device_of(images):
        _write[(len(images),)](
            images,
            rows,
            *_constants(how, channels, device),
            channels,
            *images.stride(),
            NOISE=how.noise,
            WORDS=words,
            num_warps=4,
            enable_fp_fusion=False,
        )


@lru_cache
def _constants(how: Erasing, channels: int, device: torch.device) -> tuple[Tensor, ...]:
    """The colour, uint8 `[C]`; deviation and mean of each channel, fp64 `[2, C]`; and the ziggurat's numbers. Copied to
    a GPU once, because it is a wait."""
    normal = np.array([how.std, how.mean]) if how.noise else np.zeros((2, 1))
    each = np.broadcast_to(how.colour.ravel(), channels), np.broadcast_to(normal, (2, channels))
    found = *(one.copy() for one in each), *_ziggurat()
    return tuple(torch.from_numpy(one).to(device) for one in found)


@lru_cache
def _ziggurat() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each layer how many of the 2^52 places in it are surely under the curve, `[256]`; and `[2, 256]`: the width of
    a place, and the height of the curve at the layer's end. Layer 0 is the tail with what lies below it.

    The widths are numpy's own: it is given numbers whose draw is a place's. The others follow from them. Where they
    differ from numpy's it is in some of 52 bits, and one draw in some 10^15 ends otherwise.
    """
    # Place 1 of a layer, and 0, which is taken in the only one whose places are all in the wedge.
    width = np.array([normal_of(1 << 9 | layer) for layer in range(256)])
    end = width * 2**52
    sure = np.zeros(256)
    sure[0] = end[255] / end[0]
    sure[2:] = end[1:255] / end[2:]
    height = np.exp(-(end**2) / 2)
    height[0] = 1
    return (sure * 2**52).astype(np.int64), np.stack([width, height])


@triton.jit
def _write(
    images,
    rows,
    colour,
    normal,
    sure,
    layers,
    channels,
    next_image,
    next_channel,
    next_row,
    next_column,
    NOISE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Pixel n of a box, in the order `[C, h, w]`, is the n-th number of its noise."""
    row = rows + tl.program_id(0) * 7
    height, width = tl.load(row + 2), tl.load(row + 3)
    area = height * width
    count = channels * area
    first = tl.load(row + 6)
    corner = images + tl.program_id(0).to(tl.int64) * next_image
    corner += tl.load(row) * next_row + tl.load(row + 1) * next_column
    lane = tl.arange(0, WORDS)
    at = first - first % 4  # the number that a block of numbers begins with, and what is left open before it
    left_open = first * 0
    done = first * 0
    while done < count:
        if NOISE:
            word, before = _numbers(at, tl.load(row + 4), tl.load(row + 5), WORDS)
            ends, value = _draws(word, before, at + lane >= first, left_open, sure, layers)
            drawn = ((ends < 5) & (ends != 2)).to(tl.int64)
            n = done + tl.cumsum(drawn, 0) - 1
            mask = (drawn > 0) & (n < count)
            left_open = tl.maximum(tl.sum(tl.where(lane == WORDS - 1, ends, 0), 0) - 4, 0).to(tl.int64)
            done += tl.sum(drawn, 0)
            at += WORDS
        else:
            n = done + lane
            mask = n < count
            done += WORDS
        channel, pixel = n // area, n % area
        if NOISE:
            value = value * tl.load(normal + channel, mask=mask, other=0.0)
            value = value + tl.load(normal + channels + channel, mask=mask, other=0.0)
            value = tl.minimum(tl.maximum(value * 255, 0.0), 255.0)
            byte = ((value + 6755399441055744.0) - 6755399441055744.0).to(tl.uint8)  # 1.5 * 2^52: to the nearest, even
        else:
            byte = tl.load(colour + channel, mask=mask, other=0)
        place = channel * next_channel + pixel // width * next_row + pixel % width * next_column
        tl.store(corner + place, byte, mask=mask)


@triton.jit
def _numbers(at, key, other, WORDS: tl.constexpr):
    """The numbers from `at` on, a multiple of 4, and of each the one before it."""
    count = (at // 4 + 1 + tl.arange(0, WORDS // 4)).to(tl.uint64, bitcast=True)
    key, other = key.to(tl.uint64, bitcast=True), other.to(tl.uint64, bitcast=True)
    a, b, c, d = _philox(count, key, other)
    _, _, _, last = _philox(count - 1, key, other)
    word = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    return word, tl.interleave(tl.interleave(last, b), tl.interleave(a, c))


@triton.jit
def _philox(count, key, other):
    a, b = count, tl.zeros_like(count)
    c, d = tl.zeros_like(count), tl.zeros_like(count)
    one = tl.full((), 0xD2E7470EE14C6C93, tl.uint64)
    two = tl.full((), 0xCA5A826395121157, tl.uint64)
    for _ in tl.static_range(10):
        a, b, c, d = tl.umulhi(c, two) ^ b ^ key, c * two, tl.umulhi(a, one) ^ d ^ other, a * one
        key += tl.full((), 0x9E3779B97F4A7C15, tl.uint64)
        other += tl.full((), 0xBB67AE8584CAA73B, tl.uint64)
    return a, b, c, d


@triton.jit
def _draws(word, before, begun, left_open, sure, layers):
    """How each number ends, and the normal number where it ends a draw.

    Ends: 0 a sure draw, 1 one in the wedge, 2 none in the wedge, 3 and 4 one in the tail, right and left; what they
    leave open is 0, nothing. 5: the wedge, which is 1 to the next number; 6 and 7: the tail's first number, right and
    left (2, 3); 8 and 9: its second (4, 5). A number is six such ends of four bits each, by what is open before it.
    """
    x, layer, is_sure, is_left = _place(word, sure, layers)
    x_before, layer_before, _, _ = _place(before, sure, layers)
    u, u_before = _uniform(word), _uniform(before)
    low = tl.load(layers + 256 + layer_before)
    high = tl.load(layers + 256 + tl.maximum(layer_before - 1, 0))
    in_wedge = (high - low) * u + low < tl.exp(-0.5 * x_before * x_before)
    radius = tl.load(layers + 255) * 4503599627370496.0
    far = -tl.log(1.0 - u_before) / radius
    in_tail = -2 * tl.log(1.0 - u) > far * far
    ends = tl.where(is_sure, 0, tl.where(layer > 0, 5, 6 + is_left))
    ends |= tl.where(in_wedge, 1, 2) << 4
    ends |= (8 << 8) | (9 << 12)
    ends |= tl.where(in_tail, 3, 6) << 16
    ends |= tl.where(in_tail, 4, 7) << 20
    ends = tl.where(begun, ends, 0x987652)  # a number before the first leaves nothing open, and is none
    ends = (tl.associative_scan(ends, 0, _composed) >> (4 * left_open).to(tl.int32)) & 15
    value = tl.where(ends == 0, x, tl.where(ends == 1, x_before, radius + far))
    return ends, tl.where(ends == 4, -value, value)


@triton.jit
def _composed(first, then):
    ends = tl.zeros_like(first)
    for k in tl.static_range(6):
        opened = tl.maximum(((first >> (4 * k)) & 15) - 4, 0)
        ends |= ((then >> (4 * opened)) & 15) << (4 * k)
    return ends


@triton.jit
def _place(word, sure, layers):
    """Of a number: where it lies, in which layer, whether that is surely under the curve, and the tail's side."""
    layer = (word & 255).to(tl.int32)
    place = ((word >> 9) & 0xFFFFFFFFFFFFF).to(tl.int64)
    x = place.to(tl.float64) * tl.load(layers + layer)
    x = tl.where((word & 256) > 0, -x, x)
    return x, layer, place < tl.load(sure + layer), ((place >> 8) & 1).to(tl.int32)


@triton.jit
def _uniform(word):
    """From 0 to 1."""
    return (word >> 11).to(tl.float64) * 1.1102230246251565e-16
