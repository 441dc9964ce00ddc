"""What `train.micro_batch: auto` comes to: of all ways to take a step that fit the memory, the one that is modelled to
take least."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import torch

from tdformer.errors import first_line
from tdformer.measure import Cost, Work
from tdformer.policies import Choice, choices

from ..build import planner
from ..build.memory import GIB, RESERVE
from ..build.planner import Recompute
from ..build.setup import Setup
from ..config import BatchPlan
from ..config.batches import cuts
from ..config.values import AUTO
from ..errors import RunError
from . import durations
from .figures import Figure, Section
from .machine import Machine


class Way(NamedTuple):
    """How a step is taken: how a process's share is cut, and what is computed again. cost: of a micro-batch; seconds:
    of the step, modelled; fits: into the memory."""

    plan: BatchPlan
    recompute: Recompute
    cost: Cost
    seconds: float
    fits: bool

    @property
    def choice(self) -> Choice:
        return Choice(self.recompute.policy, self.recompute.borders)

    @property
    def image(self) -> float:
        """Milliseconds for an image of a process."""
        return 1e3 * self.seconds * self.plan.world / self.plan.global_batch


@dataclass(frozen=True)
class Chosen:
    """setup: with the batch cut so. why: in words; None: nothing was to be chosen. looked: the ways that were priced;
    way: that of them which was taken; None: nothing was priced, or nothing fits."""

    setup: Setup
    why: str | None = None
    looked: tuple[Way, ...] = ()
    way: Way | None = None

    def line(self) -> str | None:
        """For a start. None: nothing was to be chosen."""
        if self.why is None:
            return None
        plan, kept = self.setup.plan, self.setup.config.recompute
        if not self.looked:
            return f"train.micro_batch=auto is {plan.micro_batch}, as 0 would be: {self.why}"
        if self.way is None:
            return "train.micro_batch=auto finds none that fits"
        times = f" x {plan.accumulation}" if plan.accumulation > 1 else ""
        borders = f", borders {kept.borders}" if kept.borders > 1 else ""
        how = f"{plan.micro_batch}{times} with recompute {kept.policy}{borders}"
        return f"train.micro_batch=auto is {how}: {self.way.image:.3g} ms an image, {self.why}"

    def section(self) -> Section:
        """What was looked at, the fastest first, for a plan."""
        found: Section = {}
        if self.why is not None and not self.looked:
            found[f"micro_batch_{self.setup.plan.micro_batch}"] = Figure(None, "ms an image", f"as 0 is: {self.why}")
        for way in sorted(self.looked, key=lambda way: way.seconds):
            said = f"chosen, {self.why}" if way is self.way else "fits" if way.fits else "does not fit"
            key = "_".join(map(str, ("micro_batch", way.plan.micro_batch, *way.choice)))
            found[key] = Figure(way.image, "ms an image", f"{way.recompute.total / GIB:.1f} GiB: {said}")
        return found


def chosen(setup: Setup, machine: Machine, before: int | None = None) -> Chosen:
    """What `train.micro_batch` comes to on a machine; where `recompute.policy` is auto, together with that. A number
    stays as it is. before: the micro-batch that the run had on as many processes: kept where it fits, since with
    another one sums are taken in another order.

    Where a step's seconds are not known, as on a CPU, or its work cannot be counted, it is that of 0: all of a norm
    batch that a process has. Where nothing fits, it is the way that needs least."""
    if setup.config.train.micro_batch != AUTO:
        return Chosen(setup)
    if not machine.gpu:  # what it was measured with is one shape
        return _usual(setup, "what a step takes on a CPU is not modelled")
    if machine.speed is None:
        return _usual(setup, "what a step takes on this GPU is not known; set site.gpu to what it is, or is nearest to")
    plans = cuts(setup.config, setup.plan)
    same = [plan for plan in plans if plan.micro_batch == before]
    with torch.device("meta"):
        try:
            if same and (kept := Search(setup, machine, same)).best is not None:
                return kept.result("as before, so that sums keep their order")
            return Search(setup, machine, plans).result(f"the least of those that fit; {machine.speed.source}")
        except RuntimeError as error:  # a backbone from outside
            return _usual(setup, f"a step's work cannot be counted ({first_line(error)})")


def fitting(setup: Setup, machine: Machine, before: int | None = None) -> Chosen:
    """The same for a run that is to begin. Raises RunError where nothing fits."""
    found = chosen(setup, machine, before)
    if found.looked and found.way is None:
        least = min(found.looked, key=lambda way: way.recompute.total)
        memory = machine.memory._replace(usable=_usable(setup, machine))
        raise RunError(planner.too_large(least.recompute, setup.outline, setup.config, least.plan, memory))
    return found


def _usual(setup: Setup, why: str) -> Chosen:
    return Chosen(setup.cut(setup.plan), why)


def _usable(setup: Setup, machine: Machine) -> float:
    """The share of the memory: what `auto` recomputes leaves a tenth."""
    return 1 - RESERVE if setup.config.recompute.policy == AUTO else machine.memory.usable


class Search:
    """Branch and bound over micro-batches and policies: `best` is the way that takes least of those that fit.

    To price a way is to run its step on meta, which takes as long as it has operators. What bounds the others:

    - work and peak of one policy lie on a line over the images of a micro-batch: on one as long as that is a norm batch
      or a part of one, on another, above that, as it has several. Two that were priced give the line; where a larger
      unit is cut into slices, work is added to it;
    - a step takes no less than its device alone, or its host alone;
    - the first of `choices` computes nothing that another one does not, and keeping more borders nothing more.
    """

    def __init__(self, setup: Setup, machine: Machine, plans: Sequence[BatchPlan]) -> None:
        """plans: the smallest micro-batch first."""
        self.setup, self.machine, self.plans = setup, machine, plans
        asked = setup.config.recompute
        self.auto = asked.policy == AUTO
        self.choices = choices(setup.outline.segments) if self.auto else [Choice(asked.policy, asked.borders)]
        self.room = machine.memory.size * _usable(setup, machine)
        self.priced: dict[tuple[Choice, int], Way] = {}
        self.best: Way | None = None
        for choice in self.choices:
            while (plan := self._next(choice)) is not None:
                self._price(plan, choice)
        if self.best is None and (self.choices[-1], plans[0].micro_batch) not in self.priced:  # what needs least
            self._price(plans[0], self.choices[-1])

    def result(self, why: str) -> Chosen:
        """why: the best is taken."""
        looked = tuple(self.priced.values())
        way = self.best or min(looked, key=lambda way: way.recompute.total)
        return Chosen(self.setup.cut(way.plan, way.choice if self.auto else None), why, looked, self.best)

    def _next(self, choice: Choice) -> BatchPlan | None:
        """What to price next: of each kind the two smallest, by which the others are bounded, then the most promising.
        None: nothing that is left could be the best."""
        left = [plan for plan in self.plans if (choice, plan.micro_batch) not in self.priced]
        live = [plan for plan in left if self._may(plan, choice)]
        for several in (False, True):
            alike = [plan for plan in self.plans if _several(plan) is several]
            fresh = [plan for plan in alike if plan in left]
            if len(alike) - len(fresh) < 2 and any(plan in live for plan in fresh):
                return fresh[0]
        return min(live, key=lambda plan: self._seconds(plan, choice), default=None)

    def _may(self, plan: BatchPlan, choice: Choice) -> bool:
        """Whether it could be the best."""
        fast = self.best is None or self._seconds(plan, choice) < self.best.seconds
        return fast and self._bytes(plan, choice) <= self.room

    def _seconds(self, plan: BatchPlan, choice: Choice) -> float:
        """Of a step; where it was not priced, no more than those."""
        if (way := self.priced.get((choice, plan.micro_batch))) is not None:
            return way.seconds
        less = [one for one in self.choices[: self.choices.index(choice)] if one.policy == choice.policy]
        less += [self.choices[0]] * (choice != self.choices[0])
        least = max((self._seconds(plan, one) for one in less), default=0.0)
        for pair in self._pairs(plan, choice):
            low, high = (astuple(way.cost.work) for way in pair)
            work = Work(*(int(_beyond(plan, pair, *ends)) for ends in zip(low, high, strict=True)))
            least = max(least, self._step(plan, [work]))
        return least

    def _bytes(self, plan: BatchPlan, choice: Choice) -> float:
        """No more than it needs."""
        below = (way for (one, micro), way in self.priced.items() if one == choice and micro < plan.micro_batch)
        peak = max((self._peak(way.cost) for way in below), default=0.0)
        for pair in self._pairs(plan, choice):
            peak = max(peak, _beyond(plan, pair, *(self._peak(way.cost) for way in pair)))
        state = planner.state_parts(self.setup.outline, self.setup.config, plan)
        return peak + state.weights + state.optimizer + state.ema + state.batches

    def _peak(self, cost: Cost) -> float:
        """Bytes of a step beside those of weights, optimizer and averages."""
        return cost.peak if self.setup.config.engine.zero_stage else cost.together

    def _pairs(self, plan: BatchPlan, choice: Choice) -> Iterator[tuple[Way, Way]]:
        """Of each kind that is below it or its own the two largest that were priced and are smaller."""
        smaller = [one for one in self.plans if one.micro_batch < plan.micro_batch]
        for several in (False, True):
            alike = (self.priced.get((choice, one.micro_batch)) for one in smaller if _several(one) is several)
            found = [way for way in alike if way is not None]
            if len(found) > 1:
                yield found[-2], found[-1]

    def _price(self, plan: BatchPlan, choice: Choice) -> None:
        setup = self.setup
        recompute = planner.price(setup.outline, setup.config, plan, *choice)
        cost = recompute.cost
        assert cost is not None
        way = Way(plan, recompute, cost, self._step(plan, cost.course), recompute.total <= self.room)
        self.priced[choice, plan.micro_batch] = way
        if way.fits and (self.best is None or way.seconds < self.best.seconds):
            self.best = way

    def _step(self, plan: BatchPlan, course: Sequence[Work]) -> float:
        seconds = durations.of_step(self.setup.cut(plan), self.machine, course)["total"].value
        assert seconds is not None
        return seconds


def _several(plan: BatchPlan) -> bool:
    """Whether a micro-batch has several norm batches, and each unit takes one after the other."""
    return plan.micro_batch > plan.norm_batch


def _beyond(plan: BatchPlan, pair: tuple[Way, Way], low: float, high: float) -> float:
    """What a plan has that is on a line with a pair's."""
    first, second = (way.plan.micro_batch for way in pair)
    return high + (high - low) * (plan.micro_batch - second) / (second - first)
