"""A run, and what reaches the model, DeepSpeed and AdamW in each of its steps."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import deepspeed
import torch
from torch import Tensor

import tdformer
from cluster.config import Config
from cluster.jobs import processes
from cluster.run.folder import RunFolder


@dataclass
class Pass:
    """A forward pass: images as the model takes them, its logits, in fp32 and the type that they had, and the
    loss's gradient by them (in training)."""

    images: Tensor
    logits: Tensor
    dtype: torch.dtype
    tf32: bool
    gradient: Tensor | None = None


@dataclass
class Step:
    """An optimizer step: its micro-batches; weights and buffers before it; the gradients that AdamW took, how it takes
    each parameter, the weights that it left, and how many steps it has counted then."""

    passes: list[Pass]
    before: dict[str, Tensor]
    gradients: dict[str, Tensor] = field(default_factory=dict)
    group: dict[str, dict[str, Any]] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    counted: set[float] = field(default_factory=set)


@dataclass
class Observed:
    """steps: in their order; evaluated: forward passes of evaluations; engine: what DeepSpeed is configured with;
    rows: of metrics.jsonl."""

    config: Config
    steps: list[Step] = field(default_factory=list)
    evaluated: list[Pass] = field(default_factory=list)
    engine: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.config.run_path)


def observe(config: Config, poison: int = 0, leave: int = 0) -> Observed:
    """Train `config`, in a fork: DeepSpeed and signals are set up once in a process. In this start's step `poison`
    (from 1) logits are infinite, and in its step `leave` SIGTERM comes; without, it trains to its end."""
    with tempfile.NamedTemporaryFile() as file:
        given = config, file.name, poison, leave
        process = multiprocessing.get_context("fork").Process(target=_train, args=given)
        process.start()
        process.join()
        assert process.exitcode == (128 + signal.SIGTERM if leave else 0)
        seen: Observed = torch.load(file.name, weights_only=False)
    return seen


def _train(config: Config, file: str, poison: int, leave: int) -> None:
    seen = Observed(config)
    with _watched(seen, poison, leave):
        code = processes.start(config, 1)
    seen.rows = seen.folder.metrics.read()
    torch.save(seen, file)
    sys.exit(code)


@contextmanager
def _watched(seen: Observed, poison: int, leave: int) -> Iterator[None]:
    forward, update, initialize = tdformer.TDFormer.forward, torch.optim.AdamW.step, deepspeed.initialize
    trained: list[tdformer.TDFormer] = []
    passes: list[Pass] = []

    def watched_forward(model: tdformer.TDFormer, images: Tensor) -> Tensor:
        if images.is_meta:  # of a plan, or a count of operations
            return forward(model, images)
        before = {name: value.detach().clone() for name, value in model.state_dict().items()}
        logits = forward(model, images)
        one = Pass(
            images.detach().clone(), logits.detach().float(), logits.dtype, torch.backends.cuda.matmul.allow_tf32
        )
        if not model.training:
            seen.evaluated.append(one)
            return logits

        def note(gradient: Tensor) -> None:
            one.gradient = gradient.detach().float()

        logits.register_hook(note)
        if not passes:
            seen.steps.append(Step(passes, before))
        passes.append(one)
        trained[:] = [model]
        number = len(seen.steps)
        if number == leave and len(passes) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return logits * math.inf if number == poison else logits

    def watched_update(optimizer: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        nonlocal passes
        step, (model,) = seen.steps[-1], trained
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (name := names.get(id(parameter))) is not None:  # with ZeRO it is a part of several
                    step.group[name] = {key: value for key, value in group.items() if key != "params"}
                    if parameter.grad is not None:
                        step.gradients[name] = parameter.grad.detach().clone()
        done = update(optimizer, *given, **named)
        step.counted = {float(state["step"]) for state in optimizer.state.values()}
        step.after = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        passes = []
        return done

    def watched_initialize(*given: Any, **named: Any) -> Any:
        seen.engine = dict(named["config"])
        return initialize(*given, **named)

    with (
        patch.object(tdformer.TDFormer, "forward", watched_forward),
        patch.object(torch.optim.AdamW, "step", watched_update),
        patch.object(deepspeed, "initialize", watched_initialize),
    ):
        yield
