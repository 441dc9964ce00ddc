"""Exponential moving average of the weights, whole on every rank, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from tdformer.precision import typed

from ...config import Config
from ...run.kept import Metrics
from ..step import Step
from .hook import HOOKS, Hook, Training


@HOOKS.register("ema")
class EMA(Hook):
    """average <- decay average + (1 - decay) weight, after every optimizer step; BatchNorm's buffers likewise. It is
    what is evaluated and exported (`train.ema_decay`)."""

    average: dict[str, Tensor]

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return config.train.ema_decay > 0

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        with self._whole():
            self.average = {k: v.detach().clone().float() for k, v in run.engine.module.state_dict().items()}

    def load(self, state: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        for name, value in tensors.items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def step(self, step: Step) -> None:
        if not step.applied:
            return
        model, decay = self.run.engine.module, self.config.train.ema_decay
        with self._whole():
            values = dict([*model.named_parameters(), *model.named_buffers()])
            averages = [self.average[name] for name in values]
            torch._foreach_lerp_(averages, [typed(value, torch.float32) for value in values.values()], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        return self.average

    def tensors(self) -> dict[str, Tensor]:
        return {k: v.to("cpu", copy=True) for k, v in self.average.items()}

    def _whole(self) -> AbstractContextManager[object]:
        from ..engine import gathered  # imports DeepSpeed, which choosing hooks does without

        return gathered(list(self.run.engine.module.parameters()))
