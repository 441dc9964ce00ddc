"""Fig 3: surrogate gradients in the processing module, with the clamp of Eq 19 and without it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from tdformer.measure.slopes import cores, processing_slopes, unclamped

from ..config.schema import setting
from ..errors import RunError
from . import style
from .figure import FIGURES, Drawn, Figure
from .opening import Run, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40
SMALL = 0.01
"""A gradient below this part of the largest one counts as gone."""
PANELS = {False: "all neurons and steps", True: "those that a spike drives"}


@dataclass(frozen=True)
class _Counts:
    """Of one run, with or without the clamp; of all neurons or the driven ones. counts: of values by bins from 0 to
    `most`, the slope at the threshold."""

    counts: NDArray[np.int64]
    most: float
    mean: float
    gone: float

    @property
    def shares(self) -> NDArray[np.float64]:
        shares: NDArray[np.float64] = self.counts / max(1, self.counts.sum())
        return shares

    @property
    def edges(self) -> NDArray[np.float64]:
        return np.linspace(0, self.most, BINS + 1)


@FIGURES.register("3")
@dataclass(frozen=True, kw_only=True)
class Gradients(Figure):
    """Of the same weights, once as they were trained and once without the clamp."""

    title = "Surrogate gradients in the processing module, with and without clamp"
    images: int = setting(64, least=1)

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        for run in runs:
            if not run.fed or not cores(run.model):
                raise RunError(f"{run.given} has no processing module with a core, whose map is clamped; leave it out")

    def draw(self, runs: Sequence[Run]) -> Drawn:
        from matplotlib.figure import Figure as Sheet

        rows: list[dict[str, object]] = []
        said, of = [], grouped(runs)
        sheet = Sheet(figsize=(style.PAGE, 0.3 + 1.7 * len(of)))
        panels = sheet.subplots(len(of), 2, squeeze=False)
        for line, (label, same) in zip(panels, of.items(), strict=True):
            found = {clamp: [counted(run, clamp, self.images) for run in same] for clamp in (True, False)}
            for driven, axes in zip(PANELS, line, strict=True):
                for clamp, each in found.items():
                    _draw(axes, [one[driven] for one in each], "with clamp" if clamp else "without clamp", not clamp)
                    for run, one in zip(same, each, strict=True):
                        rows += _rows(run, label, clamp, PANELS[driven], one[driven])
                axes.set(title=f"{label}: {PANELS[driven]}", xlabel="surrogate gradient dS/dH", yscale="log")
            line[0].set_ylabel("share")
            line[0].legend()
            said.append(_sentence(label, same, found))
        a, b = runs[0].model.config["clamp"]
        o = next(iter(cores(runs[0].model).values())).neuron.options
        caption = (
            f"**Surrogate gradients dS/dH of the processing modules' neurons** ({o.surrogate}, alpha = {o.alpha:g}), "
            f"at their potentials for {self.images} test images: with M clamped to [{a:g}, {b:g}] as trained, and with "
            f"the same weights without the clamp. Left, of all neurons and steps; right, where a spike comes in. "
            f"{' '.join(said)} A gradient below {SMALL:.0%} of the largest possible one counts as gone. "
            "Bands: lowest to highest of the runs."
        )
        return Drawn(sheet, caption, rows)


def counted(run: Run, clamp: bool, images: int) -> dict[bool, _Counts]:
    """The gradients of all its processing modules: of all neurons (False), and of those that a spike drives (True)."""
    values: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    most = 0.0
    with nullcontext() if clamp else unclamped(run.model):
        for batch, _ in run.batches(images):
            for slopes in processing_slopes(run.model, batch).values():
                values[False].append(slopes.values.flatten().float().cpu())
                values[True].append(slopes.values[slopes.driven].float().cpu())
                most = max(most, slopes.most)
    return {driven: _count(torch.cat(of), most) for driven, of in values.items()}


def _count(values: torch.Tensor, most: float) -> _Counts:
    counts = torch.histc(values.clamp(max=most), BINS, 0, most).numpy().astype(np.int64)
    if not len(values):
        return _Counts(counts, most, float("nan"), float("nan"))
    return _Counts(counts, most, float(values.double().mean()), float((values < SMALL * most).double().mean()))


def _draw(axes: Axes, each: Sequence[_Counts], label: str, second: bool) -> None:
    shares, edges = np.stack([one.shares for one in each]), each[0].edges
    colour = style.COLOURS[1 if second else 0]
    axes.stairs(shares.mean(0), edges, color=colour, label=label, ls="--" if second else "-")
    if len(each) > 1:
        axes.stairs(shares.max(0), edges, baseline=np.maximum(shares.min(0), 1e-9), fill=True, color=colour, alpha=0.25)


def _rows(run: Run, label: str, clamp: bool, which: str, one: _Counts) -> list[dict[str, object]]:
    same = {"run": run.given, "feedback": label, "seed": run.config.seed, "clamp": clamp, "of": which}
    edges = one.edges.tolist()
    return [
        {**same, "from": edges[i], "to": edges[i + 1], "count": int(count)} for i, count in enumerate(one.counts)
    ] + [{**same, "mean": one.mean, "gone": one.gone}]


def _sentence(label: str, runs: Sequence[Run], found: dict[bool, list[dict[bool, _Counts]]]) -> str:
    def mean(clamp: bool, key: str) -> float:
        return float(np.mean([getattr(one[True], key) for one in found[clamp]]))

    what = f"{label}, {len(runs)} run{'s' * (len(runs) > 1)}"
    return (
        f"{what}: where a spike comes in the mean gradient is {mean(True, 'mean'):.3f} with the clamp and "
        f"{mean(False, 'mean'):.3f} without it, and {mean(True, 'gone'):.1%} and {mean(False, 'gone'):.1%} are gone."
    )
