"""Images/s and hours on more GPUs than were measured: computing and waiting for others as fitted to the cells there
are, the slowest of many ranks, and failures. What was not measured is assumed, and each assumption is in the result."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.optimize import OptimizeResult, least_squares

import tdformer
from tdformer.errors import ModelError, first_line
from tdformer.options import Options

from ..plan.chips import chip
from ..plan.interval import daly, lost
from ..plan.network import COUNTED, AlphaBeta, Model, Network, Rule, exposed
from .fitted import Assumed, Estimate, Fit, Point, Refused, Spec, interval, number, usable
from .table import Row

DRAWS = 200
"""Of all that is uncertain together."""
LEAST = 0.1
"""Of the time, below which what failures cost is not of first order and nothing is told."""
HOST = (0.8, 1.2)
"""Another host launches in so many times the seconds that are given (assumed)."""
FIGURES = ("images_second", "efficiency", "goodput", "hours", "gpu_hours")


class Cell(NamedTuple):
    """What was measured: ranks, images of a step on each, median seconds of a step, its quartiles' distance (NaN: not
    known)."""

    row: Row
    world: int
    images: float
    seconds: float
    spread: float


@dataclass(frozen=True)
class Times:
    """What a fit finds. image, step: seconds of computing an image and, beside these, a step; alpha, beta: seconds of a
    message and of a byte between processes of one machine; network: factor on what NCCL's model says."""

    image: float
    step: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    network: float = 1.0


@dataclass(frozen=True)
class Scaled:
    """A network whose collectives take `factor` times what `network` says."""

    network: Model
    factor: float

    @property
    def wait(self) -> float:
        return self.network.wait

    def seconds(self, size: float, ranks: int, allreduce: bool) -> float:
        return self.factor * self.network.seconds(size, ranks, allreduce)


@dataclass(frozen=True, kw_only=True)
class Extrapolate(Spec):
    """gpus: ranks to tell of; chip: what they are in chips.yaml (None: processes of a CPU, whose network is fitted);
    node: GPUs of one; net: Gb/s of a GPU between nodes; cores: of a machine, which its processes share.
    model: a section `model` of a recipe, whose layers say what is sent (empty: from the column `parameters`);
    norm_batch: images that BatchNorm takes together (0: those of a rank); global_batch: images of a step (0: as many a
    rank as were measured); launch: seconds that the host needs to launch forward and backward. images: of all
    training, for the hours. stall: seconds of a checkpoint; restart: seconds after a failure; failures: of a GPU in an
    hour. error: of a measured time from run to run, as a share."""

    y: str = "seconds_step"
    x: tuple[str, ...] = ("world",)
    gpus: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    chip: str | None = None
    node: int = 8
    net: float = 400.0
    cores: int = 0
    model: Mapping[str, object] = field(default_factory=dict)
    norm_batch: int = 0
    global_batch: int = 0
    launch: float = 0.0
    images: float = 1e6
    stall: float = 1.0
    restart: float = 300.0
    failures: float = 2e-5
    error: float = 0.02

    def __post_init__(self) -> None:
        if self.x != ("world",):
            raise ValueError("x is always world; leave it out")
        if not self.gpus:
            raise ValueError("gpus is empty; it takes whole numbers above 0")
        for name in ("node", "net", "images", "restart", "failures"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it takes a number above 0")
        for name in ("cores", "norm_batch", "global_batch", "launch", "stall", "error"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; it takes a number from 0")
        if uneven := [p for p in self.gpus if self.global_batch % p]:
            raise ValueError(f"global_batch is {self.global_batch}, which {uneven[0]} GPUs do not divide")
        if self.chip is not None:
            chip(self.chip)

    def fit(self, rows: Sequence[Row]) -> Fit:
        rows, said = usable(rows, ["world", "images", "steps", self.y])
        cells, rule = [_cell(row, self.y) for row in rows], self._rule(rows)
        if (least := min(cell.seconds for cell in cells)) <= HOST[1] * self.launch:
            raise Refused(f"launch is {self.launch:g} s, and a step was measured that took {least:g}: larger ones tell")
        assumed = self._assumptions(cells)
        values = {one.name: one.value for one in assumed}
        found = self._fitted(cells, rule, values)
        fitted = [self._step(rule, values, found, cell.world, cell.images) for cell in cells]
        residual = _rms([value / cell.seconds - 1 for value, cell in zip(fitted, cells, strict=True)])
        errors = self._left_out(cells, rule, values)
        times, told = [], []
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        for _ in range(DRAWS):
            drawn = {one.name: float(random.uniform(one.low, one.high)) for one in assumed}
            moved = np.exp(max(self.error, residual) * random.standard_normal(len(cells)))
            again = [cell._replace(seconds=cell.seconds * by) for cell, by in zip(cells, moved, strict=True)]
            times.append(self._fitted(again, rule, drawn, found))
            off = math.exp(_rms(errors) * random.standard_normal())
            told.append(self._told(rule, drawn, times[-1], cells, off))
        curve = [
            {"x": p} | _drawn(row, [draw[place] for draw in told])
            for place, (p, row) in enumerate(zip(self.gpus, self._told(rule, values, found, cells), strict=True))
        ]
        parameters = {
            _WORDS[name]: Estimate(getattr(found, name), *interval([getattr(one, name) for one in times]))
            for name in self._free(cells)
        }
        for row in curve:
            for name, word in (("images_second", "images/s"), ("hours", "hours")):
                parameters[f"{word} on {row['x']}"] = Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])
        points = [_point(cell, seconds) for cell, seconds in zip(cells, fitted, strict=True)]
        note = "; ".join(filter(None, [said, _checked(errors)]))
        formula = "images/s = images of a step / ((computing + waiting for others) x the slowest of the ranks)"
        return Fit(self.name, self.x, "images/s", formula, parameters, points, note, curve, assumed)

    def _rule(self, rows: Sequence[Row]) -> Rule:
        """What passes between the ranks in a step."""
        if self.model:
            options: Options = {key: value for key, value in self.model.items() if key != "name"}
            try:
                with torch.device("meta"):
                    model = tdformer.create_model(str(self.model.get("name")), **options)
            except (ModelError, TypeError) as e:
                raise Refused(f"model: {first_line(e)}") from None
            return Rule.of(model, model.segments)
        known = {number(row, "parameters") for row in rows} - {None}
        if len(known) != 1:
            words = f"are of {len(known)} models" if known else "have no parameters"
            raise Refused(f"these cells {words}: choose some by `where`, or name the model")
        return Rule.even(int(known.pop() or 0))

    def _free(self, cells: Sequence[Cell]) -> list[str]:
        """What these cells can tell, of Times."""
        free = ["image"]
        if len({cell.images for cell in cells}) > 1:
            free.append("step")
        worlds = len({cell.world for cell in cells})
        several = any(cell.world > 1 for cell in cells)
        if self.chip is not None:
            return free + ["network"] * (worlds > 1)
        if not several:
            raise Refused("no cell has two ranks and no chip is named: nothing is known of the network")
        return free + (["beta"] if worlds < 3 else ["alpha", "beta"])

    def _assumptions(self, cells: Sequence[Cell]) -> list[Assumed]:
        own = [_own_spread(cell) for cell in cells if cell.spread >= 0]  # not NaN
        most = float(np.median(own)) if own else 0.03
        spread = "the quartiles of steps, of which 0 to all is one rank's own" if own else "not measured"
        stall, restart, failures = self.stall, self.restart, self.failures
        found = [
            Assumed("spread", most / 2, 0.0, most, f"standard deviation of a rank's step, as a share: {spread}"),
            Assumed("hidden", 1.0, 0.5, 1.0, "share of backward behind which gradients are summed: not measured"),
            Assumed("failures", failures, failures / 2, 2 * failures, _FAILURES),
            Assumed("restart", restart, 0.4 * restart, 3 * restart, "seconds from a failure to training: assumed"),
            Assumed("stall", stall, 0.5 * stall, 3 * stall, "seconds that a checkpoint stops training: given"),
        ]
        if self.chip is None:
            return found
        link, net, launch = chip(self.chip).link, self.net / 8, self.launch
        return [
            *found,
            Assumed("link", link, link, link, f"GB/s between GPUs of a node: {chip(self.chip).source}"),
            Assumed("net", net, net / 2, net, "GB/s of a GPU between nodes: assumed"),
            Assumed("reached", 0.8, 0.6, 0.95, "share of these that arrives: assumed"),
            Assumed("switch", 10e-6, 5e-6, 20e-6, "seconds to NCCL's stream and back: assumed"),
            Assumed("wait", 50e-6, 20e-6, 100e-6, "seconds idle after the host has waited: assumed"),
            Assumed(
                "launch", launch, HOST[0] * launch, HOST[1] * launch, "seconds in which the host launches a step: given"
            ),
        ]

    def _network(self, values: Mapping[str, float], times: Times) -> Model:
        if self.chip is None:
            return AlphaBeta(times.alpha, times.beta)
        links = {"nvlink": 1e9 * values["link"], "net": 1e9 * values["net"]}
        own = Network(self.node, reached=values["reached"], switch=values["switch"], wait=values["wait"], **links)
        return Scaled(own, times.network)

    def _step(self, rule: Rule, values: Mapping[str, float], times: Times, world: int, images: float) -> float:
        """Seconds, of the slowest rank."""
        compute = max(times.step + times.image * images, values.get("launch", 0.0))
        if self.cores:
            compute *= max(1.0, world / self.cores)
        group = max(1, round(self.norm_batch / images))
        waiting = exposed(rule, self._network(values, times), world, group, compute * values["hidden"], COUNTED[0])
        return (compute + waiting) * (1 + values["spread"] * slowest(world)[0])

    def _fitted(
        self, cells: Sequence[Cell], rule: Rule, values: Mapping[str, float], start: Times | None = None
    ) -> Times:
        """By least squares of relative errors, in logarithms of what is searched."""
        free = self._free(cells)
        each = min(cell.seconds / cell.images for cell in cells)
        begun = Times(each, 0.1 * each if "step" in free else 0.0)
        messages = [(1e-5, 1e-9), (1e-3, 1e-9), (1e-4, 1e-8)] if "beta" in free else [(0.0, 0.0)]
        starts = [replace(begun, alpha=a if "alpha" in free else 0.0, beta=b) for a, b in messages]

        def times(logs: np.ndarray) -> Times:
            return replace(begun, **dict(zip(free, np.exp(np.clip(logs, -60, 20)).tolist(), strict=True)))

        def rest(logs: np.ndarray) -> np.ndarray:
            one = times(logs)
            return np.array([self._step(rule, values, one, c.world, c.images) / c.seconds - 1 for c in cells])

        def searched(one: Times) -> OptimizeResult:
            return least_squares(rest, np.log([max(getattr(one, name), 1e-20) for name in free]))

        ends = map(searched, starts if start is None else [start])
        return times(min(ends, key=lambda end: end.cost).x)

    def _left_out(self, cells: Sequence[Cell], rule: Rule, values: Mapping[str, float]) -> list[float]:
        """Relative errors of the cells of each number of ranks but the smallest, without which computing and waiting
        are not told apart, from a fit to the others."""
        errors = []
        for world in sorted({cell.world for cell in cells})[1:]:
            others = [cell for cell in cells if cell.world != world]
            if self.chip is None and all(cell.world == 1 for cell in others):
                continue  # they know nothing of a network
            times = self._fitted(others, rule, values)
            of = [cell for cell in cells if cell.world == world]
            errors += [self._step(rule, values, times, c.world, c.images) / c.seconds - 1 for c in of]
        return errors

    def _told(
        self, rule: Rule, values: Mapping[str, float], times: Times, cells: Sequence[Cell], off: float = 1.0
    ) -> list[dict[str, float]]:
        """FIGURES for each of `gpus`; efficiency: images/s of a GPU over those of one alone with as many images a step
        as were measured. off: factor on the time of a step on ranks of a number that was not measured."""
        usual = float(np.median([cell.images for cell in cells]))
        alone = usual / self._step(rule, values, times, 1, usual)
        known, found = {cell.world for cell in cells}, []
        for world in self.gpus:
            images = self.global_batch / world if self.global_batch else usual
            seconds = self._step(rule, values, times, world, images) * (1 if world in known else off)
            rate = world * images / seconds
            between = 3600 / (values["failures"] * world)
            every = max(daly(values["stall"], between), 1.0)
            good = 1 - lost(every, values["stall"], between, values["restart"])
            if good < LEAST:
                raise Refused(f"failures leave {good:.0%} of the time on {world} GPUs: one each {between:.0f} s")
            hours = self.images / (rate * good) / 3600
            found.append(dict(zip(FIGURES, (rate, rate / world / alone, good, hours, hours * world), strict=True)))
        return found


_FAILURES = (
    "of a GPU in an hour: 419 in 54 days on 16,384 H100 are 2.0e-5 (Llama 3, arXiv:2407.21783); half to twice that"
)
_WORDS = {
    "image": "seconds an image",
    "step": "seconds a step",
    "alpha": "seconds a message",
    "beta": "seconds a byte",
    "network": "network, as a factor",
}


def _cell(row: Row, column: str) -> Cell:
    world, images, steps, seconds = (number(row, name) or 0.0 for name in ("world", "images", "steps", column))
    if min(world, images, steps, seconds) <= 0:
        raise Refused(f"cell {row.get('cell')} has no ranks, images, steps or seconds")
    low, high = number(row, f"{column}_low"), number(row, f"{column}_high")
    spread = high - low if low is not None and high is not None else math.nan
    return Cell(row, int(world), images / steps / world, seconds, spread)


def _point(cell: Cell, seconds: float) -> Point:
    """Images/s, measured and as fitted."""
    images = cell.world * cell.images
    return Point(str(cell.row.get("cell")), float(cell.world), images / cell.seconds, images / seconds)


def _own_spread(cell: Cell) -> float:
    """Relative standard deviation of one rank's step, from the quartiles of the slowest's."""
    quartiles = 2 * float(stats.norm.ppf(0.75))
    return cell.spread / quartiles / cell.seconds / slowest(cell.world)[1]


@cache
def slowest(ranks: int) -> tuple[float, float]:
    """Mean and standard deviation of the largest of so many standard normal numbers."""
    z = np.linspace(-8, 10, 18001)
    density = ranks * stats.norm.pdf(z) * stats.norm.cdf(z) ** (ranks - 1)
    mean = float(np.trapezoid(z * density, z))
    return mean, math.sqrt(float(np.trapezoid((z - mean) ** 2 * density, z)))


def _drawn(row: Mapping[str, float], draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure with its interval; images/s are also y, low and high."""
    found: dict[str, float] = {}
    for name, value in row.items():
        low, high = interval([draw[name] for draw in draws])
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found | {"y": found["images_second"], "low": found["images_second_low"], "high": found["images_second_high"]}


def _rms(errors: Sequence[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / max(len(errors), 1))


def _checked(errors: Sequence[float]) -> str:
    """What leaving out has shown."""
    if not errors:
        return "no number of ranks could be left out and predicted from others, so nothing here is checked"
    off, worst = _rms(errors), max(map(abs, errors))
    return f"ranks left out and predicted from the others: {off:.1%} off (rms of {len(errors)}), at most {worst:.1%}"
