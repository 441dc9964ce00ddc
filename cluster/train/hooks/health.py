"""Health of the spikes: the columns `dead`, `drift`, `drift_unit` and `information` (`train.hooks=[health]`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from tdformer.measure import mutual_information, off_diagonal, record_outputs
from tdformer.measure.spikes import fired

from ...config import Config
from ..step import Step
from .hook import HOOKS, Hook

WINDOW = 10
"""Logged steps."""
FLOOR = 1e-4
"""A firing rate that is as good as none; added to both rates of a drift, which so has no end at -inf."""
IMAGES, CHANNELS = 32, 16
"""Of which information is taken, at most."""


@HOOKS.register("health")
class Health(Hook):
    """Of the first rank's share of a logged step. A neuron is a channel here, at all positions and time steps.

    dead: the share of all units' channels that did not fire in the last WINDOW logged steps. drift: log2 of a unit's
    firing rate over its own mean in the WINDOW logged steps before, of the unit where that is farthest from 0, which
    drift_unit names. Both are null until there were so many. information: bits between what a channel of H_n does at
    two time steps, as `mutual_information`, the mean over pairs of steps, of the first IMAGES images and CHANNELS
    channels that lie evenly; null with one time step or one image. A unit that fired and has stopped is told of.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.rates = torch.zeros(0, 0, dtype=torch.float64)  # [logged steps, units], the newest last
        self.quiet = torch.zeros(0, dtype=torch.int32)  # of each channel of each unit: logged steps since it fired
        self.lived = torch.zeros(0, dtype=torch.uint8)  # of each unit: whether it ever did
        self.outputs: list[Tensor] = []

    def during(self, step: Step) -> AbstractContextManager[object]:
        model = self.run.engine.module
        return self._recorded() if step.logs and not self.run.rank and model.time_steps > 1 else nullcontext()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        with record_outputs(self.run.engine.module, None, _sample) as self.outputs:
            yield

    def step(self, step: Step) -> None:
        if not step.logs or self.run.rank:
            return
        units = list(step.firing)
        channels = [unit.channels for unit in step.firing.values()]
        rates = torch.tensor([unit.rate for unit in step.firing.values()], dtype=torch.float64)
        if not len(self.lived):
            self.rates = self.rates.view(0, len(units))
            self.quiet = torch.zeros(sum(map(len, channels)), dtype=torch.int32)
            self.lived = torch.zeros(len(units), dtype=torch.uint8)
        step.row |= self._drift(units, rates)
        self.rates = torch.cat([self.rates, rates[None]])[-WINDOW:]
        self.quiet = torch.where(torch.cat(channels).cpu() > 0, 0, self.quiet + 1).int()
        self.lived |= rates > 0
        step.row["dead"] = float((self.quiet >= WINDOW).double().mean()) if len(self.rates) == WINDOW else None
        step.row["information"] = self._information()
        for line in self._deaths(units, [len(own) for own in channels]):
            self.run.monitor.warn(line, step=step.number, epoch=step.epoch)

    def _drift(self, units: list[str], rates: Tensor) -> dict[str, object]:
        if len(self.rates) < WINDOW:
            return {"drift": None, "drift_unit": None}
        drift = torch.log2((rates + FLOOR) / (self.rates.mean(0) + FLOOR))
        farthest = int(drift.abs().argmax())
        return {"drift": float(drift[farthest]), "drift_unit": units[farthest]}

    def _information(self) -> float | None:
        model, outputs, self.outputs = self.run.engine.module, self.outputs, []
        if not outputs:
            return None
        passes = range(0, len(outputs), model.segments)  # one of each micro-batch
        spikes = torch.cat([fired(model, outputs[i : i + model.segments]) for i in passes], 1)[:, :IMAGES]
        return float(off_diagonal(mutual_information(spikes).bits)) if spikes.shape[1] > 1 else None

    def _deaths(self, units: list[str], channels: list[int]) -> list[str]:
        """A line for each unit that fired once, and now for the WINDOW-th time in a row did not."""
        silent = [int(own.min()) for own in self.quiet.split(channels)]
        return [
            f"{name} died: it did fire, and not in the last {WINDOW} logged steps; begin again with a lower train.lr, "
            "or with train.clip_grad, from weights of a step before (model.weights=RUN@STEP) if they are kept"
            for name, steps, lived in zip(units, silent, self.lived.tolist(), strict=True)
            if lived and steps == WINDOW
        ]

    def load(self, state: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        self.rates, self.quiet, self.lived = (tensors[name].clone() for name in ("rates", "quiet", "lived"))

    def tensors(self) -> dict[str, Tensor]:
        """Of the first rank, which writes them; the others keep none."""
        kept = {"rates": self.rates, "quiet": self.quiet, "lived": self.lived}
        return {name: value.clone() for name, value in kept.items()} if len(self.lived) else {}


def _sample(output: Tensor) -> Tensor:
    """`[t, B, C, ...]` -> some images and channels of it, which do not keep the rest."""
    every = -(-output.shape[2] // CHANNELS)
    return output[:, :IMAGES, ::every].clone()
