"""Figure 1: what the spikes of one time step tell of those of another, with feedback and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from pipelines.draws import NULL
from tdformer.measure import mutual_information, off_diagonal, spikes_of

from ..config.schema import setting
from ..errors import RunError
from .figure import FIGURES, Drawn, Figure
from .opening import Run, grouped
from .style import COLOURS, GREY, PAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

LEVEL = 0.95
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
WRITTEN = 6
"""Time steps up to which a matrix has its numbers in it."""


@dataclass(frozen=True)
class Measured:
    """Of one run, in bits a feature: bits, plain and error `[T, T]`, null `[R, T, T]`, as `Information`; features: how
    many there are; positions of each."""

    run: Run
    bits: NDArray[np.float64]
    plain: NDArray[np.float64]
    error: NDArray[np.float64]
    null: NDArray[np.float64]
    features: int
    positions: int
    images: int

    @property
    def shared(self) -> float:
        """The mean over all pairs of two different steps."""
        return float(off_diagonal(torch.from_numpy(self.bits)))

    @property
    def entropy(self) -> float:
        return float(self.bits.diagonal().mean())

    @property
    def by_chance(self) -> NDArray[np.float64]:
        """`shared` of each shuffle."""
        return off_diagonal(torch.from_numpy(self.null)).numpy()

    def across(self, segments: int) -> float:
        """The mean over pairs of steps that lie in two of so many segments."""
        segment = np.arange(len(self.bits)) // (len(self.bits) // segments)
        return float(self.bits[segment[:, None] != segment].mean())


@FIGURES.register("1")
@dataclass(frozen=True, kw_only=True)
class MutualInformation(Figure):
    """A matrix for each kind of run, the mean over its seeds; beside them, each run's mean over pairs of steps."""

    title = "Mutual information between time steps"
    images: int = setting(500, least=20)
    shuffles: int = setting(40, least=20, most=10**4)
    group: int = setting(1, least=1, most=8)
    unit: str | None = None

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        if runs[0].model.time_steps < 2:
            raise RunError(f"{runs[0].given} has one time step; give runs of two and more")

    def draw(self, runs: Sequence[Run]) -> Drawn:
        from matplotlib.figure import Figure as Canvas

        found = {label: [self._measure(run) for run in own] for label, own in grouped(runs).items()}
        segments = max(run.model.segments for run in runs)
        top = max(float(np.mean([m.bits for m in own], 0).max()) for own in found.values())
        figure = Canvas(figsize=(PAGE, PAGE / (len(found) + 1.4) + 0.4))
        axes = figure.subplots(1, len(found) + 1, squeeze=False, width_ratios=[1] * len(found) + [0.8])[0]
        for axis, (label, own) in zip(axes, found.items(), strict=False):
            image = _matrix(axis, np.mean([m.bits for m in own], 0), top, segments)
            axis.set_title(label)
        axes[0].set(ylabel="time step")
        figure.colorbar(image, ax=list(axes[:-1]), label="bits a feature", shrink=0.8)
        _each(axes[-1], found)
        rows = [row for own in found.values() for m in own for row in _rows(m)]
        return Drawn(figure, self._caption(found, segments), rows)

    def _measure(self, run: Run) -> Measured:
        spikes = torch.cat([spikes_of(run.model, images, self.unit).cpu() for images, _ in run.batches(self.images)], 1)
        got = mutual_information(spikes, NULL.rng(run.config.seed), self.shuffles, self.group)
        tables = (got.bits.numpy(), got.plain.numpy(), got.error.numpy(), got.null.numpy())
        t, b, c = spikes.shape[:3]
        return Measured(run, *tables, c // self.group, spikes.numel() // (t * b * c), b)

    def _caption(self, found: Mapping[str, Sequence[Measured]], segments: int) -> str:
        one = next(iter(found.values()))[0]
        unit = f"`{self.unit}`" if self.unit else "the last block's output, H_n"
        feature = "one channel" if self.group == 1 else f"{self.group} channels side by side"
        lines = [
            "Mutual information, in bits, between what a feature is at two time steps; on the diagonal its entropy. "
            f"A feature is whether {feature} of {unit} fired. Its joint distribution is over {one.images} test images "
            f"and {_counted(one.positions, 'position')} together; shown is the mean of "
            f"{_counted(one.features, 'feature')}. "
            "Plug-in estimates, corrected by a jackknife over images. White lines: where segments meet, with feedback."
        ]
        for label, own in found.items():
            lines.append(f"{label[0].upper()}{label[1:]}, {_counted(len(own), 'run')}: {_sentence(own, segments)}")
        return "\n\n".join(lines + _differences(found))


def _sentence(own: Sequence[Measured], segments: int) -> str:
    shared, entropy = [m.shared for m in own], float(np.mean([m.entropy for m in own]))
    chance = np.concatenate([m.by_chance for m in own])
    low, high = np.quantile(chance, ENDS)
    between = float(np.mean([m.across(segments) for m in own])) if segments > 1 else 0.0
    apart = f", {between:.4f} where they are of two segments" if segments > 1 else ""
    share = f"{np.mean(shared) / entropy:.1%} of the entropy, {entropy:.4f}; " if entropy else ""
    return (
        f"between two different steps {_interval(shared)} bits{apart}. That is {share}with images shuffled it is "
        f"{chance.mean():.5f} ({LEVEL:.0%} of {_counted(len(chance), 'shuffle')} from {low:.5f} to {high:.5f}), which "
        "is what positions tell, and chance."
    )


def _differences(found: Mapping[str, Sequence[Measured]]) -> list[str]:
    """Each kind with feedback against that without, over the seeds that both have."""
    base = next((own for own in found.values() if not own[0].run.fed), None)
    if base is None:
        return []
    lines, plain = [], {m.run.config.seed: m.shared for m in base}
    for label, own in found.items():
        pairs = [m.shared - plain[m.run.config.seed] for m in own if m.run.fed and m.run.config.seed in plain]
        if pairs:
            lines.append(f"{label[0].upper()}{label[1:]} less no feedback, by seed: {_interval(pairs, '+')} bits.")
    return lines


def _interval(values: Sequence[float], sign: str = "") -> str:
    """Their mean, and Student's interval of it; of one value there is none."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:{sign}.4f}"
    half = stats.t.ppf(ENDS[1], len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{mean:{sign}.4f} ({LEVEL:.0%} over seeds: {mean - half:{sign}.4f} to {mean + half:{sign}.4f})"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _matrix(axis: Axes, bits: NDArray[np.float64], top: float, segments: int) -> AxesImage:
    steps = np.arange(len(bits)) + 1
    image = axis.imshow(bits, vmin=0, vmax=top, extent=(0.5, len(bits) + 0.5, len(bits) + 0.5, 0.5))
    for border in range(1, segments):
        at = border * len(bits) / segments + 0.5
        axis.axhline(at, color="white")
        axis.axvline(at, color="white")
    for s, t in np.ndindex(bits.shape) if len(bits) <= WRITTEN else ():
        colour = "black" if bits[s, t] > 0.6 * top else "white"
        axis.text(t + 1, s + 1, f"{bits[s, t]:.3f}".lstrip("0"), color=colour, ha="center", va="center", fontsize=5.5)
    if len(bits) <= 2 * WRITTEN:
        axis.set(xticks=steps, yticks=steps)
    axis.set(xlabel="time step")
    axis.tick_params(length=0)
    return image


def _each(axis: Axes, found: Mapping[str, Sequence[Measured]]) -> None:
    """A dot for each run, a bar for their mean, and in grey where shuffled images are."""
    for place, own in enumerate(found.values()):
        shared = [m.shared for m in own]
        chance = np.concatenate([m.by_chance for m in own])
        spread = np.linspace(-0.15, 0.15, len(own)) if len(own) > 1 else np.zeros(1)
        axis.plot(place + spread, shared, "o", color=COLOURS[place % len(COLOURS)], alpha=0.7)
        axis.plot([place - 0.25, place + 0.25], [np.mean(shared)] * 2, color=COLOURS[place % len(COLOURS)])
        low, high = np.quantile(chance, ENDS)
        axis.fill_between([place - 0.3, place + 0.3], low, high, color=GREY, linewidth=0.5)
    axis.text(0, high, "shuffled", color=GREY, ha="center", va="bottom", fontsize=5.5)
    axis.set(xticks=range(len(found)), xlim=(-0.5, len(found) - 0.5), ylabel="bits, mean over pairs")
    axis.set_xticklabels(found, rotation=20, ha="right", rotation_mode="anchor")
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))


def _rows(m: Measured) -> list[dict[str, object]]:
    low, high = np.quantile(m.null, ENDS, 0)
    return [
        {
            "run": m.run.given,
            "kind": m.run.label,
            "seed": m.run.config.seed,
            "step": s + 1,
            "other_step": t + 1,
            "bits": float(m.bits[s, t]),
            "plug_in_bits": float(m.plain[s, t]),
            "standard_error": float(m.error[s, t]),
            "shuffled_bits": float(m.null[:, s, t].mean()),
            "shuffled_low": float(low[s, t]),
            "shuffled_high": float(high[s, t]),
        }
        for s, t in np.ndindex(m.bits.shape)
    ]
