"""The operators of a step, each with the shapes of its tensors: what is timed one by one where a step is planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .. import kernels

PRODUCTS = ("matrix", "attention")
"""Parts whose operators are products."""


class Lying(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> Lying:
        return cls(tuple(x.shape), x.stride(), x.dtype)

    @property
    def size(self) -> int:
        """Numbers from its first to its last."""
        steps = zip(self.shape, self.stride, strict=True)
        return 0 if 0 in self.shape else 1 + sum((n - 1) * step for n, step in steps)

    def made(self) -> Tensor:
        """One that lies so: normal numbers, or integers and truth values that are 0 or 1."""
        values = torch.randn(self.size)
        values = values.to(self.dtype) if self.dtype.is_floating_point else (values > 0).to(self.dtype)
        return values.as_strided(self.shape, self.stride)


@dataclass
class Call:
    """An operator of PyTorch, or a kernel of ours, with what it is given; so often in a step.

    part: of a plan's seconds: matrix, attention, neuron or other; key: the same where function and shapes are.
    """

    part: str
    function: Callable[..., object]
    leaves: list[object]
    tree: TreeSpec
    key: object
    times: int = 0

    @property
    def bytes(self) -> int:
        """Of the tensors that it is given."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in self.leaves if isinstance(leaf, Lying))

    def arguments(self) -> tuple[tuple[object, ...], dict[str, object]]:
        """On this machine's CPU."""
        args, kwargs = tree_unflatten([_made(leaf) for leaf in self.leaves], self.tree)
        return args, kwargs


class Calls:
    """Those of a step that differ, in the order in which they come first."""

    def __init__(self) -> None:
        self._found: dict[object, Call] = {}

    def __iter__(self) -> Iterator[Call]:
        return iter(self._found.values())

    @property
    def count(self) -> int:
        """How many there are in all."""
        return sum(call.times for call in self)

    def add(
        self, part: str, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """One more; PyTorch's convolution is our `convolve`, which takes another way where its input is sparse."""
        if function is torch.ops.aten.convolution.default:
            x, weight, bias, stride, padding, *_ = args
            args, function = (x, weight, bias, _first(stride), _first(padding)), kernels.convolve
        leaves, tree = tree_flatten((args, kwargs))
        leaves = [Lying.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        leaves = _cast(leaves) if part in PRODUCTS else leaves
        key = (function, str(tree), *((leaf if isinstance(leaf, Lying) else repr(leaf)) for leaf in leaves))
        self._found.setdefault(key, Call(part, function, leaves, tree, key)).times += 1


def _cast(leaves: list[object]) -> list[object]:
    """As autocast does with the factors of a product, but for tensors on meta."""
    types = {leaf.dtype for leaf in leaves if isinstance(leaf, Lying)}
    short = min(types, key=lambda dtype: dtype.itemsize)
    return [leaf._replace(dtype=short) if isinstance(leaf, Lying) else leaf for leaf in leaves]


def _first(pair: object) -> object:
    """Of the same for both axes."""
    assert isinstance(pair, list | tuple)
    return pair[0]


def _made(leaf: object) -> object:
    if isinstance(leaf, Lying):
        return leaf.made()
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf
