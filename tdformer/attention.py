"""The attention forms of the three backbones, on spikes: products of binary tensors, then a neuron."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from . import kernels
from .errors import ModelError
from .feedback import Control, FeedbackOptions
from .heads import as_mask, heads_of, joined, let_through, met, product, sums_of_heads, sums_of_tokens, tokens_of
from .neuron import AFTER_PRODUCT, Neuron
from .recompute import selected
from .state import State
from .unit import Current, Unit, UnitOptions

Borrowed = Iterator[tuple[nn.Module, nn.Parameter]]
"""A module, and a parameter of another one that it computes with."""


def spread(spikes: Tensor) -> Tensor:
    """3 x 3 max pooling with stride 1 over the last two of five dimensions: a spike reaches its eight neighbours."""
    y: Tensor = F.max_pool2d(spikes.flatten(0, 1), 3, 1, 1).unflatten(0, spikes.shape[:2])
    return y


class QKAttention(nn.Module):
    """Q-K attention of QKFormer's first stages: a mask from the queries selects keys; linear in the tokens.

    over="channels": token attention SN(sum over a head's channels of Q) . K (Eq 8); over="tokens": channel
    attention SN(sum over tokens of Q) . K (Eq 9).
    """

    def __init__(self, options: UnitOptions, channels: int, heads: int, over: str = "channels") -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads, self.sums = heads, {"channels": sums_of_heads, "tokens": sums_of_tokens}[over]
        self.q = Unit(options, channels, channels)
        self.k = Unit(options, channels, channels)
        self.mask = Neuron(options.neuron, AFTER_PRODUCT)
        self.proj = Unit(options, channels, channels, bias=True)

    def forward(self, x: Tensor, state: State, high: Tensor | None = None) -> Tensor:
        """x `[T, B, C, H, W]` -> spikes of the same shape; these stages take no feedback, `high` is ignored."""
        q, k = self.q(x, state), self.k(x, state)
        mask = self.mask(q, state, lambda q: self.sums(q, self.heads))
        chosen = selected(lambda mask, k: let_through(mask, k, self.heads), state, mask, k)
        spikes: Tensor = self.proj(chosen, state)
        return spikes


class Steered(nn.Module):
    """An attention whose query, key and value can be steered by feedback: it makes `q`, `k`, `v` and `control`."""

    q: Unit
    k: Unit
    v: Unit
    control: Control | None

    def steered(self, x: Tensor, high: Tensor | None, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value spikes `[T, B, C, H, W]` of x, with the feedback of H_(n-1) mixed in by the control
        module (Eqs 15-17); of the same shapes."""
        q_in = k_in = v_in = x
        k_more = v_more = mix = None
        if self.control is not None and high is not None:
            (q_in, k_in, v_in), k_more, v_more = self.control(x, high, state)
            mix = self.control.mix
        return self.q(q_in, state), self.k(k_in, state, k_more, mix), self.v(v_in, state, v_more, mix)

    def borrows(self) -> Borrowed:
        """The control module's mixer is applied by whoever it feeds."""
        if self.control is not None and self.control.mix is not None:
            user = {1: self.k, 2: self.v, 3: self.control.input}[self.control.cm]
            assert user is not None
            yield user, cast(nn.Parameter, self.control.mix.weight)


class SelfAttention(Steered):
    """Spiking self-attention SN((Q K^T V) s) (Eqs 4-5), with top-down feedback if `feedback` is given."""

    def __init__(
        self,
        options: UnitOptions,
        channels: int,
        heads: int,
        scale: float = 0.125,
        bias: bool = False,
        feedback: FeedbackOptions | None = None,
        leaky_proj_lif: bool = False,
    ) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.heads, self.scale = heads, scale
        self.q = Unit(options, channels, channels, bias=bias)
        self.k = Unit(options, channels, channels, bias=bias)
        self.v = Unit(options, channels, channels, bias=bias)
        self.product = Neuron(options.neuron, AFTER_PRODUCT)
        self.proj = Unit(options, channels, channels, bias=True, across_batch=leaky_proj_lif)
        self.control = Control(channels, feedback, options) if feedback else None

    def forward(self, x: Tensor, state: State, high: Tensor | None = None) -> Tensor:
        """x `[T, B, C, H, W]`, high the segment before's H_n of the same shape or None -> spikes `[T, B, C, H, W]`."""
        spikes: Tensor = self.proj(self.product(self.steered(x, high, state), state, self.current), state)
        return spikes

    def current(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(Q K^T V) s, all `[T, B, C, H, W]`; sums of spikes are exact, so the cheaper order gives the same result."""
        if kernels.channels_last(q):
            return product(q, k, v, self.heads, self.scale)
        shape = q.shape
        q, k, v = (heads_of(s, self.heads) for s in (q, k, v))
        if q.shape[3] <= q.shape[4]:
            y = (k @ v.transpose(-1, -2)).transpose(-1, -2) @ q
        else:
            y = v @ (k.transpose(-1, -2) @ q)
        return (y * self.scale).reshape(shape)


class SpikeDrivenAttention(Steered):
    """Spike-driven self-attention Q . SN(sum over tokens of K . V) (Eq 6), on the membrane shortcut.

    pooled_heads: pool K and V over the grid, and K . V and the output over each of so many heads, as the published
    network for CIFAR10-DVS does; None: no pooling, and then heads make no difference.
    """

    def __init__(
        self,
        options: UnitOptions,
        channels: int,
        feedback: FeedbackOptions | None = None,
        pooled_heads: int | None = None,
    ) -> None:
        super().__init__()
        _check_heads(channels, pooled_heads or 1)
        self.heads = pooled_heads
        self.shortcut = Neuron(options.neuron)
        self.q = Unit(options, channels, channels)
        self.k = Unit(options, channels, channels)
        self.v = Unit(options, channels, channels)
        self.mask = Neuron(options.neuron, AFTER_PRODUCT)
        self.proj = Current(options, channels, channels, bias=True)
        self.control = Control(channels, feedback, options) if feedback else None

    def forward(self, x: Tensor, state: State, high: Tensor | None = None) -> Tensor:
        """x `[T, B, C, H, W]` real, high H_n or None -> a current `[T, B, C, H, W]` for the shortcut."""
        q, k, v = self.steered(self.shortcut(x, state), high, state)
        mask = self.mask((k, v), state, self.current)
        current: Tensor = self.proj(selected(self.chosen, state, q, mask), state)
        return current

    def current(self, k: Tensor, v: Tensor) -> Tensor:
        """What drives the mask, `[T, B, C, 1, 1]`, from K and V `[T, B, C, H, W]`."""
        if self.heads is None:
            return met(k, v)
        both = spread(tokens_of(spread(k) * spread(v), self.heads))
        return both.sum(3).flatten(2)[..., None, None]

    def chosen(self, q: Tensor, mask: Tensor) -> Tensor:
        """The queries `[T, B, C, H, W]` that the mask `[T, B, C, 1, 1]` lets through."""
        mask = as_mask(mask, q)
        if self.heads is None:
            return q * mask
        return joined(spread(tokens_of(q, self.heads) * tokens_of(mask, self.heads)), q.shape)


@runtime_checkable
class Borrower(Protocol):
    """A module that computes with parameters of others, or of its own parts without calling them."""

    def borrows(self) -> Borrowed: ...


def borrowed(model: nn.Module) -> Borrowed:
    """Modules that compute with parameters which other modules hold; sharded weights must be there for them too."""
    for module in model.modules():
        if isinstance(module, Borrower):
            yield from module.borrows()


def _check_heads(channels: int, heads: int) -> None:
    if channels % heads:
        raise ModelError(f"{channels} channels do not divide by {heads} heads; choose heads that divide them")
