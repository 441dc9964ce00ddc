"""The one building block: convolution -> BatchNorm (-> max pool) -> neuron, as one differentiable function.

Under the policy `unit` it keeps the packed spikes that enter it, its BatchNorm statistics and its membrane; the rest is
computed again in backward. Under the others it keeps its input and the convolution's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor, nn

from . import kernels
from .errors import ModelError
from .kernels import Drive, Fired, Gradients, Means, Norm
from .neuron import Neuron, decay_of
from .norm import BatchNorm
from .options import NeuronOptions
from .packing import Layout, bounded, keep_bits, pack
from .precision import autocast_type, exact, typed
from .recompute import Border, carry
from .state import State, place

SLICE = 2**30
"""Bytes of convolution outputs computed again at once: backward takes larger units slice by slice of the batch. On a
GPU twice as many: a slice is a copy of what enters and leaves it there, and is convolved again for each pass."""


@dataclass(frozen=True)
class UnitOptions:
    """What all units of a model share: their neurons, and for how many segments BatchNorm keeps statistics."""

    neuron: NeuronOptions = NeuronOptions()
    norm_segments: int = 1


class Current(nn.Module):
    """Convolution -> BatchNorm (-> 3 x 3 max pool with stride 2, H and W halved and rounded up): the input current of
    a neuron. A kernel of 1 is a linear layer."""

    def __init__(
        self,
        options: UnitOptions,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        bias: bool = False,
        pool: bool = False,
        affine: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.norm = BatchNorm(out_channels, options.norm_segments, affine)
        self.pool = pool

    def forward(self, x: Tensor, state: State) -> Tensor:
        """x `[T, B, C, H, W]`, or `[1, B, C, H, W]` if it is the same at each step -> the same with C', H', W'."""
        return bounded(_run(self, None, state, [(x, self.conv.weight)]), None)

    def borrows(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """It computes with the parameters of its parts; see `attention.borrowed`."""
        return _of_parts(self)


class Layer(TypedDict, total=False):
    """What a `Current` may be given; affine: whether the BatchNorm has a weight and a bias."""

    kernel: int
    stride: int
    bias: bool
    pool: bool
    affine: bool


class Unit(nn.Module):
    """A `Current` and the neuron that it drives. across_batch: see `Neuron`; layer: that of the `Current`."""

    def __init__(
        self,
        options: UnitOptions,
        in_channels: int,
        out_channels: int,
        across_batch: bool = False,
        **layer: Unpack[Layer],
    ) -> None:
        super().__init__()
        self.current = Current(options, in_channels, out_channels, **layer)
        self.neuron = Neuron(options.neuron, across_batch=across_batch)

    def forward(self, x: Tensor, state: State, more: Tensor | None = None, layer: nn.Conv2d | None = None) -> Tensor:
        """x `[T, B, C, H, W]`, or `[1, B, C, H, W]` if it is the same at each step -> spikes `[T, B, C', H', W']`.

        more, layer: another input and its convolution without bias, added before the BatchNorm.
        """
        return bounded(_run(self.current, self.neuron, state, self._pairs(x, more, layer)), 1)

    def drive(self, x: Tensor, state: State, more: Tensor | None = None, layer: nn.Conv2d | None = None) -> Tensor:
        """The current that drives the neuron, of the inputs of `forward`; `[S, B, C', H', W']`, S as in x."""
        return _run(self.current, None, state, self._pairs(x, more, layer))

    def _pairs(self, x: Tensor, more: Tensor | None, layer: nn.Conv2d | None) -> list[tuple[Tensor, Tensor]]:
        """Inputs with their weights."""
        own = [(x, self.current.conv.weight)]
        return own if more is None or layer is None else [*own, (more, layer.weight)]

    def borrows(self) -> Iterator[tuple[nn.Module, nn.Parameter]]:
        """See `Current.borrows`."""
        return _of_parts(self)


def _of_parts(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    own = {id(parameter) for parameter in module.parameters(recurse=False)}
    return ((module, parameter) for parameter in module.parameters() if id(parameter) not in own)


def _run(layer: Current, neuron: Neuron | None, state: State, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """pairs: an input and its weight, and perhaps another."""
    x = pairs[0][0]
    membrane = decay = None
    if neuron is not None:
        membrane = state.membrane.get(neuron.key)
        decay = decay_of(neuron.options, layer.conv.out_channels, x, neuron.decay(), state.rates)
    plan = _Plan(layer, neuron, state, x)
    border = Border(state, membrane)
    packing = state.keep.packed and torch.is_grad_enabled()
    packed = [pack(x) if packing else None for x, _ in pairs]
    output: Tensor
    output, after, bits = _Unit.apply(  # type: ignore[no-untyped-call]
        _Call(plan, border, packed, packing and neuron is not None),
        membrane,
        decay,
        layer.norm.weight,
        layer.norm.bias,
        layer.conv.bias,
        *sum(pairs, ()),
    )
    if neuron is not None:
        carry(state, neuron.key, after)
    return keep_bits(output, bits)


class _Plan:
    """What one call computes, apart from its tensors; the same in forward and backward."""

    def __init__(self, layer: Current, neuron: Neuron | None, state: State, x: Tensor) -> None:
        self.norm, self.pool = layer.norm, layer.pool
        self.stride, self.padding = int(layer.conv.stride[0]), int(layer.conv.padding[0])
        self.options = None if neuron is None else neuron.options
        self.across_batch = neuron is not None and neuron.across_batch
        self.segment, self.given, self.steps = state.segment, len(x), state.steps or len(x)
        self.dtype, self.typed = autocast_type(x) or x.dtype, state.typed
        height, width = (-(-n // self.stride) for n in x.shape[-2:])
        each = len(x) * layer.conv.out_channels * height * width * self.dtype.itemsize
        self.groups = self.norm.groups(x.shape[1])
        if self.across_batch and self.norm.is_parted(x.shape[1]):
            raise ModelError(
                "leaky_proj_lif runs over the whole batch: one norm batch a micro-batch, or no such neuron"
            )
        self.slices: list[tuple[int, slice]] = []
        """Number of the group, and images of it that are computed at once."""
        for number, group in enumerate(self.groups):
            images = group.stop - group.start
            most = SLICE * (1 + kernels.channels_last(x))
            count = 1 if self.across_batch else min(images, -(-each * images // most))
            edges = [group.start + images * i // count for i in range(count + 1)]
            self.slices += [(number, slice(a, b)) for a, b in pairwise(edges)]

    def own(self, parameter: Tensor) -> Tensor:
        """A weight or a bias in the type that is computed in."""
        where = place(parameter) if self.typed else (0, 0)
        if (known := self.typed.get(where)) is not None:
            own, cast = known
            if cast.dtype == self.dtype and place(own) == where:  # it is not, where shards have come and gone
                return cast
        return typed(parameter, self.dtype)

    def convolve(self, inputs: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """Each `[S, b, C, H, W]` -> the sum of their convolutions `[S, b, C', H', W']`."""
        bias = None if bias is None else self.own(bias)
        y: Tensor | None = None
        for x, w in zip(inputs, weights, strict=True):
            x, w = typed(kernels.laid(x).flatten(0, 1), self.dtype), self.own(w)
            own = kernels.convolve(x, w, bias if y is None else None, self.stride, self.padding)
            y = own if y is None else y.add_(own)
        assert y is not None
        output: Tensor = y.unflatten(0, inputs[0].shape[:2])
        return output

    def convolve_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """d/dx `[S, b, C, H, W]`, d/d weight and d/d bias, as far as `needs` says."""
        given, entered = kernels.laid(grad).flatten(0, 1), typed(kernels.laid(x).flatten(0, 1), self.dtype)
        grad_x, grad_w, grad_b = kernels.convolve_backward(
            given, entered, self.own(weight), self.stride, self.padding, needs, weight.dtype
        )
        return None if grad_x is None else grad_x.view_as(x).to(x.dtype), grad_w, grad_b

    def drive(self, y: Tensor, norm: Norm, membrane: Tensor | None, decay: Tensor | None) -> Drive:
        """What drives the neurons; y `[S, b, C', H', W']`."""
        return Drive(_line(y) if self.across_batch else y, norm, membrane, decay, self.options, self.pool)

    def fire(self, drive: Drive, bits: bool = False, last: bool = False) -> Fired:
        """Output `[T, B, C, h, w]`, the membrane after it, and the output packed; see `protocol.Backend`."""
        fired = kernels.fire(drive, len(drive.y) if self.across_batch else self.steps, bits, last)
        if not self.across_batch:
            return fired
        packed = None if fired.bits is None else self._square(fired.bits)
        return fired._replace(spikes=self._square(fired.spikes), bits=packed)

    def fire_backward(self, drive: Drive, grad: Tensor, after: Tensor | None) -> Gradients:
        """From the gradients of both outputs of `fire`."""
        return kernels.fire_backward(drive, _line(grad) if self.across_batch else grad, after)

    def norm_backward(
        self, drive: Drive, grad: Tensor, after: Tensor | None, found: Gradients, means: Means, spare: bool
    ) -> Tensor:
        """d/d y `[S, b, C', H', W']`; see `protocol.Backend`."""
        grad = _line(grad) if self.across_batch else grad
        grad_y = kernels.norm_backward(drive, grad, after, found, means, spare)
        return self._square(grad_y) if self.across_batch else grad_y

    def _square(self, x: Tensor) -> Tensor:
        """The inverse of `_line`, for a whole batch."""
        return x.view(self.given, -1, *x.shape[2:])


def _line(x: Tensor) -> Tensor:
    """Time and batch as one sequence: `[T, B, ...]` -> `[T B, 1, ...]`."""
    return x.flatten(0, 1).unsqueeze(1)


class _Call(NamedTuple):
    """What `_Unit` is given besides tensors; packed: of each pair's input, where that is what is kept; bits: whether
    the output is wanted packed as well."""

    plan: _Plan
    border: Border
    packed: list[tuple[Tensor, Layout] | None]
    bits: bool


class _Unit(torch.autograd.Function):
    """pairs: input, weight, and perhaps a second input and weight whose convolution is added to the first one's."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        membrane: Tensor | None,
        decay: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        bias: Tensor | None,
        *pairs: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        plan, border, packed, bits = call
        inputs, weights = pairs[::2], pairs[1::2]
        with exact(inputs[0]):
            ys = [plan.convolve([x[:, part] for x in inputs], weights, bias) for _, part in plan.slices]
            y = _joined(ys, 1)
            assert y is not None
            del ys
            norms: list[Norm] = []
            fired: list[Fired] = []
            for group in plan.groups:
                own = y[:, group]
                norm, ctx.count = plan.norm.measure(own, plan.segment)
                norms.append(norm)
                fired.append(plan.fire(plan.drive(own, norm, _of(membrane, group), decay), bits, border.last))
            whole, after = _joined([f.spikes for f in fired], 1), _joined([f.membrane for f in fired], 0)
            packed_output = _joined([f.bits for f in fired], 1)
        assert whole is not None
        ctx.plan, ctx.border, ctx.rerun = plan, border, _membrane_after
        ctx.layouts = [None if p is None else p[1] for p in packed]
        ctx.set_materialize_grads(False)
        ctx.output = whole.shape
        ctx.save_for_backward(
            border.to_keep(membrane),
            decay,
            bias,
            None if packed[0] is not None else y,
            *(value for norm in norms for value in norm),
            *weights,
            *(x if p is None else p[0] for x, p in zip(inputs, packed, strict=True)),
        )
        if packed_output is not None:
            ctx.mark_non_differentiable(packed_output)
        return whole, border.after(after), packed_output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan, saved = ctx.plan, _Saved(ctx)
        membrane = ctx.border.entering(saved.membrane)
        ctx.border.done()
        grad, after, _ = grads
        if grad is None and after is not None:  # only the potential is used
            grad = after.new_zeros(ctx.output, dtype=plan.dtype)
        assert grad is not None
        _, _, _, gamma, beta, _, *pairs = ctx.needs_input_grad
        with exact(grad):
            needed = list(zip(pairs[::2], pairs[1::2], strict=True))
            before, rate, scale, shift, *others = _gradients(saved, membrane, grad, after, needed)
        return None, before, rate, scale if gamma else None, shift if beta else None, *others


class _Saved:
    """What forward kept, by name; y is None where it is computed again."""

    def __init__(self, ctx: Any) -> None:
        self.plan: _Plan = ctx.plan
        self.count: float = ctx.count
        self.layouts: list[Layout | None] = ctx.layouts
        self.membrane, self.decay, self.bias, self.y, *rest = ctx.saved_tensors
        left = iter(rest)
        self.norms = [Norm(*islice(left, len(Norm._fields))) for _ in self.plan.groups]
        self.weights: list[Tensor] = list(islice(left, len(self.layouts)))
        self.data: list[Tensor] = list(left)

    def inputs(self, part: slice) -> list[Tensor]:
        """The convolutions' inputs for some images of the batch, `[S, b, C, H, W]`."""
        return [
            x[:, part] if layout is None else layout.unpack(x, part)
            for x, layout in zip(self.data, self.layouts, strict=True)
        ]

    def currents(self, inputs: Sequence[Tensor], part: slice) -> Tensor:
        """The convolutions' output for them, `[S, b, C', H', W']`."""
        return self.plan.convolve(inputs, self.weights, self.bias) if self.y is None else self.y[:, part]


def _gradients(
    saved: _Saved, membrane: Tensor | None, grad: Tensor, grad_after: Tensor | None, needed: list[tuple[bool, bool]]
) -> list[Tensor | None]:
    """Gradients of membrane, decay, gamma, beta, bias and the pairs; needed: of which pairs' input and weight. Two
    passes over the slices of the batch, because BatchNorm's gradient needs its sums first; a single slice is computed
    once."""
    plan = saved.plan
    found: list[Gradients] = []
    for group, part in plan.slices:
        inputs = saved.inputs(part)
        y = saved.currents(inputs, part)
        drive = plan.drive(y, saved.norms[group], _of(membrane, part), saved.decay)
        found.append(plan.fire_backward(drive, grad[:, part], _of(grad_after, part)))
    totals = []
    for number in range(len(plan.groups)):
        own = [f for f, (group, _) in zip(found, plan.slices, strict=True) if group == number]
        totals.append((_sum([f.total for f in own]), _sum([f.total_normal for f in own])))
    means = [Means(*plan.norm.mean_gradients(*sums, saved.count)) for sums in totals]
    total, total_normal = (_sum(list(sums)) for sums in zip(*totals, strict=True))
    grad_bias = known = _bias_gradient(saved, total)
    grad_inputs: list[Tensor | None] = [None for _ in needed]
    grad_weights: list[Tensor | None] = [None for _ in needed]
    for i, (group, part) in enumerate(plan.slices):
        if len(plan.slices) > 1:
            inputs = saved.inputs(part)
            y = saved.currents(inputs, part)
            drive = plan.drive(y, saved.norms[group], _of(membrane, part), saved.decay)
        of_after = _of(grad_after, part)
        grad_y = plan.norm_backward(drive, grad[:, part], of_after, found[i], means[group], saved.y is None)
        found[i] = found[i]._replace(current=None, winners=None)  # let go of them
        del y, drive
        for k, (x, weight, (of_x, of_weight)) in enumerate(zip(inputs, saved.weights, needed, strict=True)):
            wanted = [of_x, of_weight, k == 0 and saved.bias is not None and known is None]
            grad_x, grad_w, grad_b = plan.convolve_backward(grad_y, x, weight, wanted)
            grad_inputs[k] = _placed(grad_inputs[k], grad_x, part, grad.shape[1])
            grad_weights[k] = _added(grad_weights[k], grad_w)
            grad_bias = known if known is not None else _added(grad_bias, grad_b)
        del grad_y, inputs
    typed = [g if g is None else g.to(w.dtype) for g, w in zip(grad_weights, saved.weights, strict=True)]
    return [
        _joined([f.membrane for f in found], 0),
        None if saved.decay is None else _sum([f.decay for f in found]),
        total_normal,
        total,
        grad_bias if grad_bias is None else grad_bias.to(saved.bias.dtype),
        *chain.from_iterable(zip(grad_inputs, typed, strict=True)),
    ]


def _bias_gradient(saved: _Saved, total: Tensor) -> Tensor | None:
    """d/d bias of the convolution on a GPU, from `total`, d/d beta, and not by a sum over all of d/d y: the mean of a
    norm batch takes a bias away, so that it has none. None: it is to be summed up, or there is no bias."""
    norm = saved.plan.norm
    if saved.bias is None or not kernels.channels_last(total) or norm.ranks is not None:
        return None
    return torch.zeros_like(total) if saved.count else saved.norms[0].scale * total


@torch.no_grad()
def _membrane_after(ctx: Any) -> Tensor | None:
    """Run a segment again for the potential that it leaves."""
    plan, saved = ctx.plan, _Saved(ctx)
    membrane = ctx.border.entering(saved.membrane)
    afters = []
    with exact(saved.data[0]):
        for group, part in plan.slices:
            y = saved.currents(saved.inputs(part), part)
            drive = plan.drive(y, saved.norms[group], _of(membrane, part), saved.decay)
            afters.append(plan.fire(drive).membrane)
    left: Tensor | None = ctx.border.after(_joined(afters, 0))
    return left


def _of(membrane: Tensor | None, part: slice) -> Tensor | None:
    return None if membrane is None else membrane[part]


def _joined(parts: Sequence[Tensor | None], axis: int) -> Tensor | None:
    """The parts behind one another along their first or second axis; None where there is none."""
    there = [part for part in parts if part is not None]
    if len(there) < 2:
        return parts[0]
    if there[0].dim() < 4 or not kernels.channels_last(there[0]):
        return torch.cat(there, axis)
    return torch.cat([part.movedim(-3, -1) for part in there], axis).movedim(-1, -3)  # which stays so in memory


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def _added(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if more is None:
        return total
    return more if total is None else total.add_(more)


def _placed(whole: Tensor | None, images: Tensor | None, part: slice, batch: int) -> Tensor | None:
    """Put the gradients of some images in their place; all of them are taken as they are."""
    if images is None or images.shape[1] == batch:
        return images
    if whole is None:
        whole = kernels.empty(images, images.shape[0], batch, *images.shape[2:])
    whole[:, part] = images
    return whole
