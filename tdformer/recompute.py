"""Activation checkpointing across time steps: what is kept for backward, and what is computed again.

`none` keeps everything; `block` keeps what enters each stem and transformer block; `time` keeps what crosses the
border of two segments. Every policy gives the gradients and the BatchNorm statistics of `none`, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norm import frozen_statistics
from .state import State, keys

POLICIES = ("none", "block", "time")


def recomputed(part: nn.Module, call: Callable[..., Any], state: State, *inputs: Tensor | None) -> Any:
    """`call(*inputs, state)`, computed again in backward; `part` holds every unit that the call may advance.

    Membranes enter and leave as tensors, so that both passes start from the same potentials; the second pass
    leaves the running statistics alone. Without gradients it is the plain call.
    """
    if not torch.is_grad_enabled():
        return call(*inputs, state)
    names = list(keys(part))

    def run(*tensors: Tensor | None) -> Any:
        before = dict(zip(names, tensors[len(inputs) :], strict=True))
        inner = State(state.segment, {k: v for k, v in before.items() if v is not None})
        result = call(*tensors[: len(inputs)], inner)
        return result, [inner.membrane.get(k) for k in names]

    result, after = checkpoint(
        run,
        *inputs,
        *(state.membrane.get(k) for k in names),
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), frozen_statistics()),
    )
    state.membrane.update({k: v for k, v in zip(names, after, strict=True) if v is not None})
    return result
