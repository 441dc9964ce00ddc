"""Stands in for a CUDA graph where the GPU's benchmark is rehearsed on a CPU: every operator of a function, and every
kernel of ours, is noted while it runs once, and done again by a replay, on the memory that it had.

As in a graph no Python of the function runs again, and nothing lies elsewhere: what it decided by numbers, or left in
new memory, shows as other bits. What it looks at on the device is an error while it is recorded, as it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tdformer import kernels

READ = {
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.equal",
    "aten.is_nonzero",
    "aten.unique",
    "aten.masked_select",
}
"""Operators by which the host looks at a tensor."""


class Tape(TorchDispatchMode):
    """See `cluster.train.graph.Recorded`."""

    def __init__(self, work: Callable[[], None], let_go: Callable[[], None]) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        work()  # as before a capture: it can be called again
        let_go()
        chosen, packer = kernels.chosen, kernels._packer
        with (
            patch.object(kernels, "chosen", lambda x: self._noting(chosen(x))),
            patch.object(kernels, "_packer", lambda x: self._noting(packer(x))),
            self,
        ):
            work()

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, made in self._calls:
            for to, x in zip(made, _tensors(function(*args, **kwargs)), strict=True):
                if x.data_ptr() != to.data_ptr():
                    to.copy_(x)

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if str(func._overloadpacket) in READ:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        result = func(*args, **(kwargs or {}))
        there = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
        if func._schema.is_mutable or any(x.untyped_storage()._cdata not in there for x in _tensors(result)):
            self._calls.append((func, args, kwargs or {}, _tensors(result)))  # else it is a view
        return result

    def _noting(self, backend: Any) -> Any:
        """The kernels of a backend, each as one operator; plain PyTorch has operators of its own."""
        if backend is kernels.reference:
            return backend
        own = ModuleType(backend.__name__)
        for name in ("statistics", "affine", "fire", "fire_backward", "norm_backward", "pack", "add_pack", "unpack"):
            if hasattr(backend, name):
                setattr(own, name, self._noted(getattr(backend, name)))
        return own

    def _noted(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            with _disable_current_modes():
                result = kernel(*args)
            self._calls.append((kernel, args, {}, _tensors(result)))
            return result

        return noted


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
