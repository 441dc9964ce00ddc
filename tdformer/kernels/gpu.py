"""The fused neuron on GPU: Triton programs over y `[S, M, C]`, M = B H W pixels, whose channels lie side by side.

A program takes tiles of pixels and channels through all steps with V in registers. Backward computes H again, twice: a
first pass adds up what BatchNorm's gradient needs of the whole batch, a second one writes d/d y, so that no d/d current
of the size of y is ever stored. H must come out the same each time, so no multiply and add are contracted into one but
BatchNorm's. Each program leaves its part of a sum, of tiles that do not depend on the device, and the parts are added
in one order: two runs give the same bits.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..options import NeuronOptions
from . import gpu_programs as device
from .gpu_affine import affine as affine
from .protocol import Drive, Fired, Gradients, Means, Norm, chunk_of

PROGRAMS = 1056
"""That a pass with sums is spread over: 8 for each of 132 multiprocessors."""
SHAPES = 1024
"""Of which is remembered how they are cut: the host works that out once, not for each launch."""
VALUES = 1024
"""Of a tile, with 4 warps: 8 a thread, a load of 128 bits where they have 16."""


class Sizes(NamedTuple):
    """What programs may be compiled for, as the batch does not change it: y's H and W; blocks of channels; chunks of
    steps."""

    height: int
    width: int
    blocks: int
    chunks: int


class Cut(NamedTuple):
    """How a y is cut. pixels that the neuron sees in a step, and of y; pixels from one step of y to the next; programs
    to a block of channels, each of which takes every so-manieth tile; pixels and channels of a tile."""

    pixels: int
    whole: int
    y_step: int
    programs: int
    sizes: Sizes
    bm: int
    bc: int


class Cell(NamedTuple):
    """The neuron for the programs: its constants, 1 / tau and the potential at the start, None where there is none."""

    threshold: float
    rest: float
    decay: Tensor | None
    membrane: Tensor | None


class Scaling(NamedTuple):
    """A `Norm` and the `Means` of its gradient for the programs, each None where there is none."""

    mean: Tensor | None = None
    invstd: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    grad: Tensor | None = None
    grad_normal: Tensor | None = None


class Spiked(NamedTuple):
    """Where `gpu_programs.fire` writes; None: not at all."""

    spikes: Tensor
    bits: Tensor | None
    membrane: Tensor | None


class Incoming(NamedTuple):
    """The gradients that enter `gpu_programs.backward`."""

    spikes: Tensor
    membrane: Tensor | None


class Pulled(NamedTuple):
    """Where `gpu_programs.backward` writes; None: not at all. total, normal and decay: parts of the sums of
    `Gradients`; starts: V at the start of each chunk but the first; y: d/d y."""

    total: Tensor | None = None
    normal: Tensor | None = None
    decay: Tensor | None = None
    current: Tensor | None = None
    winners: Tensor | None = None
    membrane: Tensor | None = None
    starts: Tensor | None = None
    y: Tensor | None = None


def statistics(y: Tensor) -> tuple[Tensor, Tensor]:
    """See `protocol.Backend`."""
    y = _moved(y if y.dim() == 5 else y.unsqueeze(0))
    steps, *size, channels = y.shape
    pixels = math.prod(size)
    bm, bc = _tile(pixels, channels)
    each, blocks = -(-pixels // bm), -(-channels // bc)
    parts = torch.empty(3, _programs(steps * each, blocks), channels, dtype=torch.float32, device=y.device)
    programs, tiles = parts.shape[1], (pixels, y.stride(0) // channels, each, steps * each)
    launch(device.statistics, programs * blocks, y, *parts, channels, *tiles, blocks, BM=bm, BC=bc)
    (mean, var), wide = torch.empty(2, channels, dtype=torch.float32, device=y.device), min(8, bc)
    joined = *parts, mean, var, 1 / (steps * pixels), channels, programs
    launch(device.join, -(-channels // wide), *joined, BP=64, BC=wide)
    return mean, var


def fire(drive: Drive, steps: int, bits: bool = False, last: bool = False) -> Fired:
    """See `protocol.Backend`."""
    y = _moved(drive.y)
    _, batch, *_, channels = y.shape
    image, steps = _image(drive), steps if drive.neuron is not None else y.shape[0]
    chunk = chunk_of(steps)
    cut = _cut(drive, y, steps, chunk)
    written = Spiked(
        _empty(y, steps, batch, *image, channels),
        _empty(y, steps, batch, math.prod(image) * channels // 8, dtype=torch.uint8)
        if bits and channels % 8 == 0
        else None,
        None if last or drive.neuron is None else _empty(y, batch, *image, channels, dtype=torch.float32),
    )
    launch(
        device.fire,
        cut.programs * cut.sizes.blocks,
        y,
        _scaling(drive.norm),
        _cell(drive),
        written,
        channels,
        cut.pixels,
        cut.y_step,
        cut.sizes,
        FIRES=drive.neuron is not None,
        SOFT=_soft(drive.neuron),
        POOL=drive.pool,
        SAME=y.shape[0] == 1,
        CHUNK=chunk,
        BM=cut.bm,
        BC=cut.bc,
    )
    after = None if written.membrane is None else written.membrane.movedim(-1, 1)
    return Fired(written.spikes.movedim(-1, 2), after, written.bits)


def fire_backward(drive: Drive, grad_spikes: Tensor, grad_membrane: Tensor | None) -> Gradients:
    """See `protocol.Backend`. d/d current is written where no second pass follows, and where that one reads it: with
    pooling, as it is smaller than y there, together with the winner of each window. Else it is summed alone."""
    y, o = _moved(drive.y), drive.neuron
    _, batch, *_, channels = y.shape
    shape = (batch, *_image(drive), channels)
    cut = _cut(drive, y, grad_spikes.shape[0], chunk_of(grad_spikes.shape[0]), summed=True)
    given = o is None  # d/d current is what comes in
    normed, learned = drive.norm is not None, drive.decay is not None and drive.decay.requires_grad
    parts = torch.empty(3, cut.programs, channels, dtype=torch.float32, device=y.device)
    written = Pulled(
        total=parts[0] if normed else None,
        normal=parts[1] if normed else None,
        decay=parts[2] if learned else None,
        current=_empty(y, y.shape[0], *shape) if not given and (drive.pool or not normed) else None,
        winners=_empty(y, y.shape[0], *shape, dtype=torch.uint8) if drive.pool and normed else None,
        membrane=None if drive.membrane is None else _empty(y, *shape, dtype=torch.float32),
        starts=_starts(y, cut, channels),
    )
    _pull(drive, y, grad_spikes, grad_membrane, _scaling(drive.norm), written, cut)
    total, normal, decay = parts.sum(1)
    before, winners, current = (
        None if x is None else x.movedim(-1, -3) for x in (written.membrane, written.winners, written.current)
    )
    return Gradients(grad_spikes if given and drive.pool else current, winners, before, decay, total, normal)


def norm_backward(
    drive: Drive,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    found: Gradients,
    means: Means,
    spare: bool,
) -> Tensor:
    """See `protocol.Backend`."""
    y = _moved(drive.y)
    channels, norm = y.shape[-1], _scaling(drive.norm, means)
    own = spare and (y.shape[0] == 1 or y.is_contiguous())
    out = y if own else torch.empty(y.shape, dtype=y.dtype, device=y.device)
    if found.winners is None:
        cut = _cut(drive, y, grad_spikes.shape[0], chunk_of(grad_spikes.shape[0]))
        _pull(drive, y, grad_spikes, grad_membrane, norm, Pulled(starts=_starts(y, cut, channels), y=out), cut)
    else:
        assert found.current is not None
        current, winners = (_moved(x).contiguous() for x in (found.current, found.winners))
        pixels, whole, y_step, _, sizes, *_ = _cut(drive, y, 1, 1)
        bm, bc = _tile(whole, channels)
        tiles = -(-whole // bm)
        launch(
            device.scatter,
            y.shape[0] * tiles * sizes.blocks,
            y,
            norm,
            current,
            winners,
            out,
            channels,
            pixels,
            whole,
            y_step,
            tiles,
            sizes,
            BM=bm,
            BC=bc,
        )
    return out.movedim(-1, 2)


def launch(kernel: Any, programs: int, *args: object, **options: object) -> None:
    """Run a kernel; its first argument is on the device where it runs."""
    with torch.cuda.device_of(args[0]):
        kernel[(programs,)](*args, num_warps=4, enable_fp_fusion=False, **options)


def _pull(
    drive: Drive,
    y: Tensor,
    grad_spikes: Tensor,
    grad_membrane: Tensor | None,
    norm: Scaling,
    written: Pulled,
    cut: Cut,
) -> None:
    """One pass of `gpu_programs.backward`."""
    o, grads = drive.neuron, _moved(grad_spikes)
    launch(
        device.backward,
        cut.programs * cut.sizes.blocks,
        y,
        norm,
        _cell(drive),
        Incoming(grads, _membrane(grad_membrane)),
        written,
        y.shape[-1],
        cut.pixels,
        cut.y_step,
        grads.stride(0) // y.shape[-1],
        cut.sizes,
        SOFT=_soft(o),
        SURROGATE=None if o is None else o.surrogate,
        ALPHA=1.0 if o is None else o.alpha,
        DETACH=o is None or o.detach_reset,
        POOL=drive.pool,
        SAME=y.shape[0] == 1,
        CHUNK=chunk_of(grads.shape[0]),
        BM=cut.bm,
        BC=cut.bc,
    )


def _moved(x: Tensor) -> Tensor:
    """x `[S, B, C, H, W]` as `[S, B, H, W, C]`, each step contiguous: as it lies where it does so, like a slice."""
    x = x.movedim(2, -1)
    return x if x[0].is_contiguous() and x.stride(0) % x.shape[-1] == 0 else x.contiguous()


def _membrane(x: Tensor | None) -> Tensor | None:
    """x `[B, C, h, w]` as `[B, h, w, C]`."""
    return None if x is None else x.movedim(1, -1).contiguous()


def _empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def _image(drive: Drive) -> tuple[int, int]:
    """h and w."""
    height, width = drive.y.shape[3:]
    return ((height + 1) // 2, (width + 1) // 2) if drive.pool else (height, width)


def _scaling(norm: Norm | None, means: Means | None = None) -> Scaling:
    return Scaling(*(x.contiguous() for x in (*(norm or ()), *(means or ()))))


def _cell(drive: Drive) -> Cell:
    o, decay, membrane = drive.neuron, drive.decay, _membrane(drive.membrane)
    constants = (0.0, 0.0) if o is None else (float(o.threshold), float(o.v_reset or 0.0))
    return Cell(*constants, None if decay is None else decay.contiguous(), membrane)


def _soft(o: NeuronOptions | None) -> bool:
    return o is not None and o.v_reset is None


@lru_cache(SHAPES)
def _tile(pixels: int, channels: int, values: int = 0) -> tuple[int, int]:
    """Pixels and channels of a tile: of the channels a power of two that divides them, or else more than there are.
    values: of a tile, VALUES unless they are given."""
    bc = math.gcd(channels, 128)
    if bc < 16:
        bc = min(64, triton.next_power_of_2(channels))
    return min((values or VALUES) // bc, triton.next_power_of_2(pixels)), bc


def _programs(tiles: int, blocks: int) -> int:
    """To a block of channels, where each leaves a part of a sum."""
    return max(1, min(PROGRAMS // blocks, tiles))


def _cut(drive: Drive, y: Tensor, steps: int, chunk: int, summed: bool = False) -> Cut:
    """For y `[S, B, H, W, C]`. summed: the programs leave sums, and are no more than PROGRAMS; else each has a tile."""
    return _cut_of(y.shape, y.stride(0), _image(drive), drive.pool, steps, chunk, summed)


@lru_cache(SHAPES)
def _cut_of(
    shape: torch.Size, stride: int, image: tuple[int, int], pool: bool, steps: int, chunk: int, summed: bool
) -> Cut:
    given, batch, height, width, channels = shape
    pixels = batch * math.prod(image)
    many = pool and given > 1  # each value of each step is then taken out of nine: half the registers
    bm, bc = _tile(pixels, channels, VALUES // 2 if many else VALUES)
    tiles, blocks = -(-pixels // bm), -(-channels // bc)
    return Cut(
        pixels=pixels,
        whole=batch * height * width,
        y_step=stride // channels if given > 1 else 0,
        programs=_programs(tiles, blocks) if summed else tiles,
        sizes=Sizes(height, width, blocks, steps // chunk),
        bm=bm,
        bc=bc,
    )


def _starts(y: Tensor, cut: Cut, channels: int) -> Tensor | None:
    if cut.sizes.chunks == 1:
        return None
    return _empty(y, cut.sizes.chunks - 1, cut.pixels, channels, dtype=torch.float32)
