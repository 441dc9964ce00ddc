"""Alarms: what is wrong with the loss, a rank or a layer, told once when it begins (`health`)."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping

from tdformer.measure import Firing

from ...config import Config
from ...run.kept import Metrics
from ..slots import Addend
from ..step import Step
from .hook import HOOKS, Hook, Training

RECENT = 50
"""Logged losses that a spike is measured against."""


@HOOKS.register("alarms")
class Alarms(Hook):
    """Compares what is logged with the limits of `health`."""

    hosts: list[str]

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.limits = config.health
        self.losses: deque[float] = deque(maxlen=RECENT)
        self.on: set[str] = set()
        self.seconds: list[float] = []  # each rank's, since the last logged step

    @classmethod
    def wanted(cls, config: Config) -> bool:
        return True

    def slots(self, world: int) -> Mapping[str, int]:
        return {"seconds": world}

    def begin(self, run: Training, rows: Iterable[Metrics]) -> None:
        super().begin(run, rows)
        self.hosts, self.seconds = run.hosts, [0.0] * run.world
        self.losses.extend(loss for row in rows if isinstance(loss := row.get("loss"), float))

    def share(self, step: Step) -> Mapping[str, Addend]:
        """The wait for data and the first forward: in what comes after, ranks wait for each other."""
        own = step.waited + step.worked
        return {"seconds": [own if rank == self.run.rank else 0.0 for rank in range(self.run.world)]}

    def step(self, step: Step) -> None:
        self.seconds = [a + b for a, b in zip(self.seconds, step.sums["seconds"], strict=True)]

    def logged(self, step: Step) -> None:
        lines = self.loss(step.loss) + self.ranks(self.seconds) + self.firing(step.firing)
        self.seconds = [0.0] * self.run.world
        for line in lines:
            self.run.monitor.warn(line, step=step.number, epoch=step.epoch)

    def loss(self, value: float | None) -> list[str]:
        """A line for each trouble that is new, of the steps since the last row."""
        if value is None:
            return []
        usual = statistics.median(self.losses) if len(self.losses) >= 5 else None
        self.losses.append(value)
        high = usual is not None and value > self.limits.spike * usual
        line = f"loss {value:.4g} is above {self.limits.spike:g} times the usual {usual}"
        return self._begun("spike", {"spike": line} if high else {})

    def ranks(self, seconds: list[float]) -> list[str]:
        """seconds: each rank's own time since the last row."""
        usual = statistics.median(seconds)
        lines = {
            f"rank {rank}": f"rank {rank} on {self.hosts[rank]} takes {own / usual:.1f} times the median rank's time "
            "for its data and forward pass"
            for rank, own in enumerate(seconds)
            if usual > 0 and own > self.limits.straggler * usual
        }
        return self._begun("rank ", lines)

    def firing(self, units: Mapping[str, Firing]) -> list[str]:
        """What each unit of the model did in a logged step."""
        low, high = self.limits.firing_rate
        lines = {}
        for name, unit in units.items():
            if not low <= unit.rate <= high:
                lines[f"firing {name}"] = f"{name} has firing rate {unit.rate:.4f}, outside [{low:g}, {high:g}]"
            if unit.silent > self.limits.silent:
                lines[f"silent {name}"] = f"{unit.silent:.0%} of the channels of {name} never fired in a step"
        # A rate near its limit crosses it at every other step: each unit is told of once.
        new = sorted(lines.keys() - self.on)
        self.on |= lines.keys()
        return [lines[key] for key in new]

    def _begun(self, kind: str, lines: dict[str, str]) -> list[str]:
        """The lines of one kind whose trouble was not there before; those that are not among them are over."""
        now = {key for key in lines if key.startswith(kind)}
        new = sorted(now - self.on)
        self.on = {key for key in self.on if not key.startswith(kind)} | now
        return [lines[key] for key in new]
