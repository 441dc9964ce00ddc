"""A step's forward and backward passes as one graph: what they ask the device for is recorded once, and asked for again
with other pictures in the same memory, without any Python of theirs (`engine.graph`).

A graph holds what follows from shapes alone. Left outside are what a step decides by numbers (the optimizer's step, its
learning rate, what is logged) and what passes between ranks; a step whose units are looked at runs without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from tdformer.errors import first_line
from tdformer.norm import StepStatistics, step_statistics

from ..errors import RunError
from . import engine as engines

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

Inputs = tuple[Tensor, Tensor, Tensor]
"""Of a micro-batch: images, targets and labels, as `Feed.inputs` makes them."""


Work = Callable[[], None]


class Recorded(Protocol):
    """What a function asked the device for."""

    def replay(self) -> None:
        """Ask for it again, with the memory that it had."""


class CudaGraph:
    """By CUDA's stream capture. Weights that autocast casts are cast, and let go, inside of it."""

    WARM = 3
    """Calls before, on the stream that is captured: they compile kernels and make libraries' workspaces."""

    def __init__(self, work: Work, let_go: Work) -> None:
        """let_go: of what `work` has left, which lies in memory that a capture cannot take over."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.WARM):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        let_go()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            work()

    def replay(self) -> None:
        self._graph.replay()


RECORDERS: dict[str, Callable[[Work, Work], Recorded]] = {"cuda": CudaGraph}
"""By the kind of device: each calls a function, which can be called again and leaves the same, and records it."""


class Graph:
    """`passes` of a model in its engine: all micro-batches of a step -> a tensor; BatchNorm's statistics are collected
    and gradients are left, as they are on this rank, in memory that stays theirs until the next replay."""

    def __init__(self, engine: DeepSpeedEngine, passes: Callable[[Sequence[Inputs]], Tensor]) -> None:
        """Raises RunError where the engine's device records nothing, and for what follows from numbers."""
        kind, model = engine.device.type, engine.module
        if model.frames and model.policy.packed:
            raise RunError(
                f"recompute.policy={model.recompute} packs frames of events by their largest number, which "
                "engine.graph=true does not look at; set it false, or another policy"
            )
        if kind not in RECORDERS:
            raise RunError(
                f"engine.graph=true records what a GPU is asked for, and there is none ({kind}); set it false"
            )
        self._engine, self._passes, self._record = engine, passes, RECORDERS[kind]
        self._recorded: Recorded | None = None
        self._inputs: list[Inputs] = []
        self._result: Tensor | None = None
        self._statistics = StepStatistics()
        self.gradients: dict[nn.Parameter, Tensor] = {}

    def replay(self, inputs: Sequence[Inputs]) -> tuple[Tensor, StepStatistics]:
        """What `passes` returns of these micro-batches, shaped as the first ones were, and what was collected. Raises
        RunError where it asks for something that cannot be recorded."""
        if self._recorded is None:
            self._begin(inputs)
        assert self._recorded is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            for to, x in zip(own, given, strict=True):
                to.copy_(x)
        self._recorded.replay()
        assert self._result is not None
        return self._result, self._statistics

    def _begin(self, inputs: Sequence[Inputs]) -> None:
        self._inputs = [(images.clone(), targets.clone(), labels.clone()) for images, targets, labels in inputs]
        own = [self._engine.device] if self._engine.device.type == "cuda" else []
        with torch.random.fork_rng(own), engines.unsummed(self._engine):  # a replay draws what this step would
            try:
                self._recorded = self._record(self._work, self._let_go)
            except RuntimeError as error:
                cause = _first(error)
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                raise RunError(
                    f"engine.graph=true: no graph of this step ({first_line(cause)}); set it false"
                ) from cause

    def _work(self) -> None:
        self._engine.module.zero_grad(set_to_none=True)  # then autograd makes new ones, in the graph's memory
        with step_statistics() as self._statistics:
            self._result = self._passes(self._inputs)
        self.gradients = {p: p.grad for p in self._engine.module.parameters() if p.grad is not None}

    def _let_go(self) -> None:
        self._engine.module.zero_grad(set_to_none=True)
        self._result, self._statistics, self.gradients = None, StepStatistics(), {}


def _first(error: BaseException) -> BaseException:
    """What broke a capture: to end a broken one is an error of its own, which hides it."""
    while isinstance(error.__context__, RuntimeError):
        error = error.__context__
    return error
