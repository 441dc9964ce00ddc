"""Computing again in backward: a part of the model or a segment, from what entered it, or a call from its packed
inputs. Which of it is done is a policy's to say (`policies`). The second pass starts from the same potentials as the
first, and BatchNorm counts it no second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norm import frozen_statistics
from .packing import bits_of, bounded, keep_bits, pack
from .precision import autocast, autocast_type
from .state import State, keys

R = TypeVar("R")
Tensors = tuple[Tensor, ...]
Fire = Callable[[Tensor | None, Tensors, Tensors], tuple[Tensor, Tensor | None]]
"""(membrane, inputs, weights) -> (output, membrane after the segment)."""


def recomputed(part: nn.Module, call: Callable[..., R], state: State, *inputs: Tensor | None) -> R:
    """`call(*inputs, state)`, computed again in backward; `part` holds every unit that the call may advance.

    Membranes enter and leave as tensors, so that both passes start from the same potentials; the second pass
    leaves the running statistics alone. Without gradients it is the plain call.
    """
    if not torch.is_grad_enabled():
        return call(*inputs, state)
    names = list(keys(part))

    def run(*tensors: Tensor | None) -> tuple[R, list[Tensor | None]]:
        before = dict(zip(names, tensors[len(inputs) :], strict=True))
        inner = replace(state, membrane={k: v for k, v in before.items() if v is not None})
        result = call(*tensors[: len(inputs)], inner)
        return result, [inner.membrane.get(k) for k in names]

    first = inputs[0]
    assert first is not None
    mode = autocast_type(first)

    @contextmanager
    def as_before() -> Iterator[None]:
        with frozen_statistics(), autocast(first, mode):  # checkpoint knows no autocast on the meta device
            yield

    result, after = checkpoint(
        run,
        *inputs,
        *(state.membrane.get(k) for k in names),
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), as_before()),
    )
    state.membrane.update({k: v for k, v in zip(names, after, strict=True) if v is not None})
    return cast(R, result)


def again(call: Fire, state: State, key: str | None, inputs: Tensors, weights: Tensors) -> Tensor:
    """The output `[T, B, ...]` of `call`; where only packed inputs are kept, backward computes it again from them.

    inputs `[T, B, ...]` are packed, weights kept as they are. key names the membrane that the call advances, if any.
    """
    membrane = None if key is None else state.membrane.get(key)
    border = Border(state, membrane)
    output: Tensor
    if torch.is_grad_enabled() and (state.keep.packed or state.keep.rounded):
        output, after, bits = _Again.apply(call, border, len(inputs), membrane, *inputs, *weights)  # type: ignore[no-untyped-call]
        keep_bits(output, bits)
    else:
        output, after = call(membrane, inputs, weights)
        after = border.after(after)
    carry(state, key, after)
    return output


def selected(call: Callable[..., Tensor], state: State, *spikes: Tensor) -> Tensor:
    """What `call` selects of spikes by spikes; backward computes it again where only packed inputs are kept."""
    return bounded(again(lambda _, inputs, __: (call(*inputs), None), state, None, spikes, ()), 1)


def carry(state: State, key: str | None, membrane: Tensor | None) -> None:
    """Hand a membrane on to the next segment."""
    if key is None:
        return
    state.membrane.pop(key, None)
    if membrane is not None:
        state.membrane[key] = membrane


class Border:
    """The membrane that enters one unit's segment: kept for backward, or computed again by the segment before it."""

    def __init__(self, state: State, membrane: Tensor | None) -> None:
        self.last, self.rounded = state.last, state.keep.rounded
        before = None if membrane is None else membrane.grad_fn
        recompute = state.keep.packed and not state.keep.border(state.segment) and hasattr(before, "rerun")
        self.before: Any = before if recompute else None
        self._found: Tensor | None = None

    def to_keep(self, membrane: Tensor | None) -> Tensor | None:
        """What to save for backward."""
        if membrane is None or self.before is not None:
            return None
        return membrane.bfloat16() if self.rounded else membrane

    def after(self, membrane: Tensor | None) -> Tensor | None:
        """A membrane as it leaves the segment."""
        if self.last or membrane is None:
            return None
        return membrane.bfloat16().to(membrane.dtype) if self.rounded else membrane

    def entering(self, kept: Tensor | None) -> Tensor | None:
        """The membrane, from what was saved or from the segment before. What that one had to find on the way stays
        with it until its own turn, so that k borders cost one more forward pass and not k / 2."""
        if self.before is None:
            return kept.float() if self.rounded and kept is not None else kept
        if self._found is None:
            self._found = self.before.rerun(self.before)
        return self._found

    def done(self) -> None:
        """Backward went past this border."""
        self._found = None


class _Again(torch.autograd.Function):
    """tensors: the inputs, `packed` of them, and then the weights."""

    @staticmethod
    def forward(
        ctx: Any, call: Fire, border: Border, packed: int, membrane: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        inputs, weights = tensors[:packed], tensors[packed:]
        kept = [pack(x) for x in inputs]
        ctx.layouts = [layout for _, layout in kept]
        ctx.call, ctx.border, ctx.rerun, ctx.mode = call, border, _membrane_after, autocast_type(tensors[0])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(border.to_keep(membrane), *(data for data, _ in kept), *weights)
        output, after = call(membrane, inputs, weights)
        if (bits := bits_of(output)) is not None:
            ctx.mark_non_differentiable(bits)
        return output, border.after(after), bits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        membrane, inputs, weights = _entered(ctx)
        ctx.border.done()
        _, _, _, *needed = ctx.needs_input_grad
        given = [None if x is None else x.detach() for x in (membrane, *inputs, *weights)]
        wanted = {i: x for i, x in enumerate(given) if x is not None and needed[i]}
        start, *rest = given
        with torch.enable_grad(), autocast(inputs[0], ctx.mode):
            for x in wanted.values():
                x.requires_grad_()
            outputs = ctx.call(start, tuple(rest[: len(inputs)]), tuple(rest[len(inputs) :]))
        pairs = [(o, g) for o, g in zip(outputs, grads[:2], strict=True) if g is not None]
        found = torch.autograd.grad(
            [o for o, _ in pairs], list(wanted.values()), [g for _, g in pairs], allow_unused=True
        )
        by_place = dict(zip(wanted, found, strict=True))
        return None, None, None, *(by_place.get(i) for i in range(len(given)))


def _entered(ctx: Any) -> tuple[Tensor | None, Tensors, Tensors]:
    """The membrane, the inputs and the weights of a call, as they were."""
    kept, *saved = ctx.saved_tensors
    count = len(ctx.layouts)
    inputs = tuple(layout.unpack(data) for layout, data in zip(ctx.layouts, saved[:count], strict=True))
    return ctx.border.entering(kept), inputs, tuple(saved[count:])


@torch.no_grad()
def _membrane_after(ctx: Any) -> Tensor | None:
    membrane, inputs, weights = _entered(ctx)
    with autocast(inputs[0], ctx.mode):
        _, after = ctx.call(membrane, inputs, weights)
    left: Tensor | None = ctx.border.after(after)
    return left
