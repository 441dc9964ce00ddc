"""Live tensor bytes over a training step, and the work that it is: measured on a real device, planned on meta."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

from .. import kernels
from ..kernels import attention, channels_last, meta
from ..model import TDFormer, segment_loss
from ..precision import autocast
from .calls import Calls


@register_flop_formula(torch.ops.tdformer.product)
def _product(q: torch.Size, k: object, v: object, heads: int, scale: float, **_: object) -> int:
    """Of K^T V and of Q times that, of each head."""
    return 4 * prod(q) * q[2] // heads


@register_flop_formula(torch.ops.tdformer.product_backward)
def _product_backward(grad: object, q: torch.Size, k: object, v: object, heads: int, scale: float, **_: object) -> int:
    """Of K^T V again, of its gradient, and of one product for each tensor's."""
    return 10 * prod(q) * q[2] // heads


EVERY = 64
"""Operators from one note of the course of a step to the next."""


@dataclass
class Work:
    """What a device does in a step. Bytes are those that its operators read and write, each tensor once an operator."""

    operators: int = 0
    """What the host asks of the device: PyTorch's operators, and calls of the fused kernels."""
    launches: int = 0
    """Kernels that a GPU is given for them: a convolution's are also those that change its tensors' layout, if any."""
    matrix_flops: int = 0
    """Of convolutions and linear layers, 2 a multiply-add."""
    matrix_bytes: int = 0
    attention_flops: int = 0
    """Of products of two activations."""
    attention_bytes: int = 0
    neuron_bytes: int = 0
    """Of the fused neuron and BatchNorm; counted on meta alone, as the GPU's kernels move them."""
    neuron_calls: int = 0
    """How many of the operators these are."""
    packing_bytes: int = 0
    """Of what reads or writes integers, but for pooling, which remembers places."""
    other_bytes: int = 0
    """Of everything else: sums, copies, max pooling by itself."""

    @property
    def flops(self) -> int:
        """Of all products, 2 a multiply-add."""
        return self.matrix_flops + self.attention_flops


@dataclass
class LiveBytes:
    """Bytes of tensors made since the start and still alive, without parameters, buffers and their gradients.

    Gradients of matrices count as such before autograd has summed them over the segments too: what is made with the
    shape and the type of a matrix among the parameters.
    """

    now: int = 0
    peak: int = 0
    kept: int = 0
    """What was alive after forward."""
    work: Work = field(default_factory=Work)
    course: list[Work] = field(default_factory=list)
    """`work` as it was after every `EVERY`-th operator, in their order."""
    timeline: list[int] = field(default_factory=list)
    """`now` after every operator."""
    gradients: int = 0
    """Bytes of parameters' gradients, as they are made."""
    together: int = 0
    """The peak of `now` and these."""
    then: int = 0
    """Of which gradients."""
    calls: Calls | None = None
    """Of all operators, on meta; None: they are not asked for."""

    def neuron(self, moved: int) -> None:
        """A call of the fused neuron or BatchNorm, which read and wrote so many bytes."""
        self.work.neuron_calls += 1
        self.work.neuron_bytes += moved
        self.asked(1)

    def packing(self, moved: int) -> None:
        """A call of the packing kernels."""
        self.work.packing_bytes += moved
        self.asked(1)

    @contextmanager
    def kernel(self, name: str, args: tuple[object, ...]) -> Iterator[None]:
        """A call of one of these; what it calls in turn is no call of its own."""
        calls, self.calls = self.calls, None
        if calls is not None:
            calls.add("other" if "pack" in name else "neuron", getattr(kernels, name), args, {})
        try:
            yield
        finally:
            self.calls = calls

    def asked(self, launches: int) -> None:
        """One more operator, whose work is noted."""
        self.work.operators += 1
        self.work.launches += launches
        if self.work.operators % EVERY == 0:
            self.course.append(replace(self.work))

    def add(self, count: int, gradient: bool = False) -> None:
        if gradient:
            self.gradients += count
        else:
            self.now += count
        self.peak = max(self.peak, self.now)
        if self.now + self.gradients > self.together:
            self.together, self.then = self.now + self.gradients, self.gradients


_aten = torch.ops.aten
_ALLOCATE = {_aten.empty, _aten.new_empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty_strided}
_own = torch.ops.tdformer
_PRODUCTS: dict[Any, Callable[..., object]] = {
    _own.product: attention.product,
    _own.product_backward: attention.product_backward,
}
"""What each is by PyTorch's operators."""
_OF_ACTIVATIONS = {_aten.bmm, _aten.baddbmm, *_PRODUCTS}
_POOLING = {_aten.max_pool2d_with_indices, _aten.max_pool2d_with_indices_backward}
_LAUNCHES = {_aten.convolution: 3, _aten.convolution_backward: 6}
"""Kernels of cuDNN's convolutions of NCHW: one, or two of backward, and for each tensor one that changes its layout
(torch's profile in benchmarks/results/gpu.md); of all others 1."""
_LAUNCHES_LAST = {_aten.convolution_backward: 2}
"""The same where channels lie last, and nothing changes its layout."""


class _Follow(TorchDispatchMode):
    """Sees every operator's outputs; a storage counts once, from its first tensor until it is freed."""

    def __init__(self, live: LiveBytes, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = live
        self.matrices = {(p.shape, p.dtype) for p in model.parameters() if p.dim() > 1}
        self.known: dict[int, tuple[weakref.finalize[..., object], int, bool]] = {}
        """Of a storage, by its place: what is called when it is freed, its bytes, and whether it is a gradient."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if func._overloadpacket in _PRODUCTS and kernels.by_operators(args[0], args[-2]):
            with self:  # sees each of them
                return _PRODUCTS[func._overloadpacket](*args)
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.note(func, args, kwargs or {}, result, made)
        for leaf in made:
            self.count(leaf.untyped_storage(), (leaf.shape, leaf.dtype) in self.matrices)
        self.live.timeline.append(self.live.now)
        return result

    def note(self, func: Any, args: Any, kwargs: Any, result: object, made: list[Tensor]) -> None:
        """Add an operator to the work, unless it only allocates, or looks at a tensor in another shape."""
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage()._cdata for leaf in read}
        fresh = any(leaf.untyped_storage()._cdata not in given for leaf in made)
        if not (fresh or func._schema.is_mutable) or func._overloadpacket in _ALLOCATE:
            return
        work, moved = self.live.work, sum(min(leaf.nbytes, leaf.untyped_storage().nbytes()) for leaf in read + made)
        count, part = flop_registry.get(func._overloadpacket), "other"
        floating = all(leaf.is_floating_point() for leaf in read + made)
        if count is None and (floating or func._overloadpacket in _POOLING):
            work.other_bytes += moved
        elif count is None:
            work.packing_bytes += moved
        elif func._overloadpacket in _OF_ACTIVATIONS:
            work.attention_flops += count(*args, **kwargs, out_val=result)
            work.attention_bytes += moved
            part = "attention"
        else:
            work.matrix_flops += count(*args, **kwargs, out_val=result)
            work.matrix_bytes += moved
            part = "matrix"
        if self.live.calls is not None:
            self.live.calls.add(part, func, args, kwargs)
        launches = _LAUNCHES_LAST if made and channels_last(made[0]) else _LAUNCHES
        self.live.asked(launches.get(func._overloadpacket, 1))

    def count(self, storage: torch.UntypedStorage, gradient: bool) -> None:
        key = storage._cdata
        if key not in self.known:
            size = storage.nbytes()
            self.live.add(size, gradient)
            self.known[key] = weakref.finalize(storage, self.freed, key), size, gradient

    def freed(self, key: int) -> None:
        _, size, gradient = self.known.pop(key)
        self.live.add(-size, gradient)

    def ignore(self, tensor: Tensor) -> None:
        """What was there before."""
        storage = tensor.untyped_storage()
        self.known[storage._cdata] = weakref.finalize(storage, self.known.pop, storage._cdata, None), 0, False

    def accumulated(self, tensor: Tensor | None) -> None:
        """A parameter's gradient, of whatever shape."""
        assert tensor is not None
        finalizer, size, gradient = self.known.get(tensor.untyped_storage()._cdata, (None, 0, True))
        if finalizer is not None and not gradient:
            self.live.add(-size)
            self.live.add(size, True)
            self.known[tensor.untyped_storage()._cdata] = finalizer, size, True


@contextmanager
def live_bytes(model: nn.Module, there: Iterable[Tensor] = (), calls: Calls | None = None) -> Iterator[LiveBytes]:
    """While the block runs, count live tensor bytes; see `LiveBytes`. On CUDA and CPU as on meta. there: tensors that
    were made before and are written to in it, beside those of `model`; calls: where each operator is noted."""
    live = LiveBytes(calls=calls)
    follow = _Follow(live, model)
    for tensor in (*model.parameters(), *model.buffers(), *there):
        follow.ignore(tensor)
    trained = (p for p in model.parameters() if p.requires_grad)
    hooks = [p.register_post_accumulate_grad_hook(lambda p: follow.accumulated(p.grad)) for p in trained]
    try:
        with follow, meta.watched(live):
            yield live
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Cost:
    """One training step: bytes kept for backward and at its peak, and its work. together: the peak with gradients that
    come as backward makes them, of which `gradients` then. course: the work so far, on the way and at the end."""

    kept: int
    peak: int
    together: int
    gradients: int
    work: Work
    course: tuple[Work, ...]

    @property
    def flops(self) -> int:
        """Operations of convolutions and matrix products, 2 a multiply-add."""
        return self.work.flops


def measure_step(
    model: TDFormer, images: Tensor, bf16: bool = False, calls: Calls | None = None
) -> tuple[Cost, LiveBytes]:
    """Run one forward and backward pass and count. On the meta device nothing is computed or allocated: that is the
    model of bytes and operations by which memory is planned, for the kernels and the types of a GPU.

    images `[B, C, H, W]` or `[T, B, C, H, W]`; calls: where each operator is noted. Gradients that the model had are
    lost.
    """
    targets = torch.zeros(images.shape[-4], dtype=torch.long, device=images.device)
    with live_bytes(model, calls=calls) as live, autocast(images, torch.bfloat16 if bf16 else None):
        loss = segment_loss(model.train()(images), targets)
        live.kept = live.now
        loss.backward()
    model.zero_grad()
    return Cost(live.kept, live.peak, live.together, live.then, live.work, (*live.course, live.work)), live


def measure_evaluation(model: TDFormer, images: Tensor, bf16: bool = False, calls: Calls | None = None) -> Work:
    """The work of one forward pass in evaluation; else as `measure_step`."""
    with live_bytes(model, calls=calls) as live, autocast(images, torch.bfloat16 if bf16 else None), torch.no_grad():
        model.eval()(images)
    return live.work
