"""Live tensor bytes over a training step: measured on a real device, planned on the meta device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..model import TDFormer, segment_loss
from ..precision import autocast


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
    flops: int = 0
    """Operations of convolutions and matrix products, 2 a multiply-add."""
    timeline: list[int] = field(default_factory=list)
    """`now` after every operator."""

    def add(self, count: int) -> None:
        self.now += count
        self.peak = max(self.peak, self.now)


class _Follow(TorchDispatchMode):
    """Sees every operator's outputs; a storage counts once, from its first tensor until it is freed."""

    def __init__(self, live: LiveBytes, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = live
        self.matrices = {(p.shape, p.dtype) for p in model.parameters() if p.dim() > 1}
        self.known: dict[int, tuple[weakref.finalize[..., object], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.live.flops += count(*args, **(kwargs or {}), out_val=result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (leaf.shape, leaf.dtype) not in self.matrices:
                self.count(leaf.untyped_storage())
        self.live.timeline.append(self.live.now)
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            size = storage.nbytes()
            self.live.add(size)
            self.known[key] = weakref.finalize(storage, self.freed, key), size

    def freed(self, key: int) -> None:
        self.live.add(-self.known.pop(key)[1])

    def ignore(self, tensor: Tensor) -> None:
        """A parameter, or the gradient of one."""
        key = tensor.untyped_storage()._cdata
        if key in self.known:
            finalizer, size = self.known[key]
            finalizer.detach()
            self.live.add(-size)
        self.known[key] = weakref.finalize(tensor.untyped_storage(), self.known.pop, key, None), 0


@contextmanager
def live_bytes(model: nn.Module) -> Iterator[LiveBytes]:
    """While the block runs, count live tensor bytes; see `LiveBytes`. On CUDA and CPU as on meta."""
    live = LiveBytes()
    follow = _Follow(live, model)
    for tensor in (*model.parameters(), *model.buffers()):
        follow.ignore(tensor)
    trained = (p for p in model.parameters() if p.requires_grad)
    hooks = [p.register_post_accumulate_grad_hook(lambda p: follow.ignore(p.grad)) for p in trained]
    try:
        with follow:
            yield live
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Cost:
    """One training step: bytes kept for backward and at its peak, and operations (2 a multiply-add)."""

    kept: int
    peak: int
    flops: int


def measure_step(model: TDFormer, images: Tensor, bf16: bool = False) -> tuple[Cost, LiveBytes]:
    """Run one forward and backward pass and count. On the meta device nothing is computed or allocated: that is the
    model of bytes and operations by which memory is planned, for the kernels and the types of a GPU.

    images `[B, C, H, W]` or `[T, B, C, H, W]`. Gradients that the model had are lost.
    """
    targets = torch.zeros(images.shape[-4], dtype=torch.long, device=images.device)
    with live_bytes(model) as live, autocast(images, torch.bfloat16 if bf16 else None):
        loss = segment_loss(model.train()(images), targets)
        live.kept = live.now
        loss.backward()
    model.zero_grad()
    return Cost(live.kept, live.peak, live.flops), live
