"""How far a potential depends on earlier ones, in a network and through time: a figure that the paper does not have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tdformer import TDFormer
from tdformer.feedback import Control
from tdformer.measure.sensitivity import sensitivity

from ..config.schema import setting
from ..errors import RunError
from . import style
from .figure import FIGURES, Drawn, Figure
from .opening import Run, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = np.logspace(-4, 0, 41)
"""Sensitivities of the third panel."""


@dataclass(frozen=True)
class Measured:
    """Of one unit of one run, from one step to another. rms: over neurons and images, of the norm of what a neuron
    does; zero: the share that does nothing; above: the shares above each of LEVELS."""

    unit: str
    source: int
    target: int
    rms: float
    zero: float
    above: list[float]


@FIGURES.register("sensitivity")
@dataclass(frozen=True, kw_only=True)
class Sensitivities(Figure):
    """dH[t + k] / dH[t] of every unit."""

    title = "Sensitivity of potentials to earlier ones"
    images: int = setting(8, least=1)

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        for run in runs:
            if run.model.time_steps < 2:
                raise RunError(f"{run.given} has one time step, and so no earlier potential; leave it out")

    def draw(self, runs: Sequence[Run]) -> Drawn:
        from matplotlib.figure import Figure as Sheet

        found = {run.given: measured(run, self.images) for run in runs}
        common = set.intersection(*({one.unit for one in of} for of in found.values()))
        steps, reached = _steps(runs), _reached(runs, common)
        sheet = Sheet(figsize=(style.PAGE, 2.5))
        depth, lag, level = sheet.subplots(1, 3)
        said = []
        for number, (label, same) in enumerate(grouped(runs).items()):
            each = [found[run.given] for run in same]
            colour = style.COLOURS[number % len(style.COLOURS)]
            across = [[one for one in of if (one.source, one.target) == (steps, 2 * steps)] for of in each]
            across = [[one for one in of if one.unit in common] for of in across]
            _line(depth, range(len(across[0])), [[one.zero for one in of] for of in across], colour, label)
            lags, values = _by_lag(each, reached, steps)
            _line(lag, lags, values, colour, label, "o-")
            inside = [[one for one in of if one.unit in reached] for of in across]
            shares = [np.mean([one.above for one in of], axis=0).tolist() for of in inside]
            _line(level, LEVELS, shares, colour, label)
            said.append(_sentence(label, inside, lags, values))
        depth.set(xlabel="unit, from input to head", ylabel="share without any effect", ylim=(0, None))
        depth.set_title(f"step {steps} to {2 * steps}, all units")
        lag.set(xlabel="steps k", ylabel="RMS of dH[t+k]/dH[t]", yscale="log", title="from the first segment on")
        lag.xaxis.get_major_locator().set_params(integer=True)
        level.set(xlabel="sensitivity", ylabel="share above it", xscale="log", ylim=(0, 1))
        level.set_title(f"step {steps} to {2 * steps}")
        sheet.legend(*depth.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        rows = [row for run in runs for row in _rows(run, found[run.given])]
        return Drawn(sheet, self._caption(runs, reached, steps, said), rows)

    def _caption(self, runs: Sequence[Run], reached: set[str], steps: int, said: Sequence[str]) -> str:
        o = runs[0].model.config
        reset = "soft" if o["v_reset"] is None else "hard"
        which = f"the {len(reached)} units of fed-back blocks" if any(run.fed for run in runs) else "all units"
        return (
            f"**How potentials depend on earlier ones**, in trained networks, for {self.images} test images: the norm "
            "of dH[t+k]/dH_i[t], H[t+k] the potentials of a neuron's own unit, by autograd through the whole network. "
            f"Neurons: {o['surrogate']} surrogate, alpha = {o['alpha']:g}, tau = {o['tau']:g}, {reset} reset, "
            f"{'' if o['detach_reset'] else 'not '}detached. Left: the share of each unit's neurons whose potential at "
            f"step {steps} has no effect on their unit at step {2 * steps}, which feedback reaches. Right: of {which}, "
            f"the share with more than some effect. Middle: of the same units, from steps up to {steps} to later ones. "
            f"{' '.join(said)} Bands: lowest to highest of the runs."
        )


def measured(run: Run, images: int) -> list[Measured]:
    """Of all units that every segment runs, in the order in which they run."""
    found: dict[tuple[str, int, int], list[torch.Tensor]] = {}
    controls = tuple(f"{name}." for name, module in run.model.named_modules() if isinstance(module, Control))
    for batch, _ in run.batches(images):
        for one in sensitivity(run.model, batch, run.config.seed):
            if not one.unit.startswith(controls):
                found.setdefault((one.unit, one.source, one.target), []).append(one.values.flatten().double().cpu())
    rows = []
    for key, values in found.items():
        all_of = torch.cat(values)
        above = [float((all_of > level).double().mean()) for level in LEVELS.tolist()]
        rows.append(Measured(*key, float(all_of.square().mean().sqrt()), float((all_of == 0).double().mean()), above))
    return rows


def _steps(runs: Sequence[Run]) -> int:
    """Of a segment, in a run with feedback where there is one: what happens at step t is fed back at t + so many."""
    model = next((run for run in runs if run.fed), runs[0]).model
    return max(1, model.time_steps // max(2, model.segments))


def _reached(runs: Sequence[Run], units: set[str]) -> set[str]:
    """Of these units those of blocks that are fed back in some run; without feedback all."""
    blocks = {block for run in runs if run.fed for block in _fed_back(run.model)}
    return {unit for unit in units if any(unit.startswith(f"{block}.") for block in blocks)} if blocks else units


def _fed_back(model: TDFormer) -> list[str]:
    """The names of the backbone's parts that have a control module."""
    names = {module: name for name, module in model.named_modules()}
    return [names[part] for part in model.backbone.parts() if any(isinstance(m, Control) for m in part.modules())]


def _by_lag(each: Sequence[list[Measured]], units: set[str], steps: int) -> tuple[list[int], list[list[float]]]:
    """The numbers of steps between two, and of each run the root of the mean square over units and pairs."""
    pairs = [[one for one in of if one.unit in units and one.source <= steps < one.target] for of in each]
    lags = sorted({one.target - one.source for one in pairs[0]})
    return lags, [
        [float(np.sqrt(np.mean([one.rms**2 for one in of if one.target - one.source == k]))) for k in lags]
        for of in pairs
    ]


def _line(
    axes: Axes, x: Iterable[float], each: Sequence[Sequence[float]], colour: str, label: str, marks: str = "-"
) -> None:
    """The mean of runs, and a band from the lowest to the highest."""
    values = np.array(each, dtype=float)
    axes.plot(list(x), values.mean(0), marks, color=colour, label=label)
    if len(each) > 1:
        axes.fill_between(list(x), values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)


def _sentence(
    label: str, inside: Sequence[Sequence[Measured]], lags: Sequence[int], values: Sequence[Sequence[float]]
) -> str:
    zero = float(np.mean([one.zero for of in inside for one in of]))
    decay = ", ".join(f"{float(np.mean([of[i] for of in values])):.3g} (k = {k})" for i, k in enumerate(lags))
    return (
        f"{label}, {len(inside)} run{'s' * (len(inside) > 1)}: {zero:.1%} of the neurons of these units without "
        f"effect, RMS {decay}."
    )


def _rows(run: Run, found: Sequence[Measured]) -> list[dict[str, object]]:
    same = {"run": run.given, "feedback": run.label, "seed": run.config.seed}
    return [
        {**same, "unit": one.unit, "from": one.source, "to": one.target, "rms": one.rms, "zero": one.zero,
         **{f"above {level:.3g}": share for level, share in list(zip(LEVELS, one.above, strict=True))[::10]}}
        for one in found
    ]  # fmt: skip
