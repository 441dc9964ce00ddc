"""Attention over segments under corruption: spike activation maps of one picture, by a network without feedback and by
the first and the last segment of one with feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipelines.loader import eval_loader, to_device
from pipelines.samples import Samples
from pipelines.views.corrupted import Made
from pipelines.views.like import Some
from tdformer.measure.activation import GAMMA, activation_map, attentions, measure_attention

from ..config.schema import setting
from ..errors import RunError
from ..train.evaluate import computing
from .figure import FIGURES, Drawn, Figure
from .opening import FEEDBACK, Run
from .style import PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

CLEAN = "original"
BLOCKS = 2
"""Columns of kinds on the page, each of a picture and its maps."""


@dataclass(frozen=True)
class _Seen:
    """Of some pictures, all of one kind of corruption: as they are shown, `[n, H, W]` or `[n, H, W, 3]` of 0 to 1, and
    the maps `[n, h, w]` of each panel."""

    shown: np.ndarray
    maps: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Attention(Figure):
    """image: the number, among those that are measured, of the picture that is shown; images: how many are measured;
    severity, of 1 to 5; gamma: of `activation_map`."""

    varies: ClassVar[frozenset[str]] = FEEDBACK | {"time_steps"}
    most: ClassVar[int | None] = 2
    image: int = setting(0, least=0)
    images: int = setting(32, least=1)
    severity: int = setting(3, least=1, most=5)
    gamma: float = setting(GAMMA, above=0)

    def sides(self, runs: Sequence[Run]) -> tuple[Run, Run]:
        """The run without feedback and that with. Raises RunError where there are not one of each."""
        base, fed = [run for run in runs if not run.fed], [run for run in runs if run.fed]
        if len(base) != 1 or len(fed) != 1:
            raise RunError(
                f"it compares a run without feedback with one that has it, and {len(base)} without and {len(fed)} with "
                "are given; give one of each"
            )
        return base[0], fed[0]

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        base, _ = self.sides(runs)
        if not base.data.kind.pictures:
            raise RunError(f"it is of pictures, and {base.data.folder} holds {base.data.kind.name}")
        if not attentions(base.model):
            raise RunError(f"{base.given} has no attention whose spikes are known")
        if not self.image < self.images <= len(base.data):
            raise RunError(f"image={self.image} of images={self.images}: the test set has {len(base.data)}")

    def draw(self, runs: Sequence[Run]) -> Drawn:
        base, fed = self.sides(runs)
        source = Made(base.data, 0)
        sets: dict[str, Samples] = {CLEAN: base.data}
        sets |= {kind: source.read(kind, self.severity) for kind in source.kinds}
        seen = {kind: self._seen(base, fed, Some(samples, self.images)) for kind, samples in sets.items()}
        rows = [_row(seen[CLEAN], kind, one, panel, self.image) for kind, one in seen.items() for panel in one.maps]
        return Drawn(_drawn(seen, self.image), self._caption(base, fed, seen, rows), rows)

    def _seen(self, base: Run, fed: Run, samples: Samples) -> _Seen:
        """What both runs make of some pictures. The maps of a segment are the means over its steps; spikes before it
        count in them."""
        batches = eval_loader(samples, batch_size=base.setup.plan.micro_batch, view=base.setup.view)
        images = torch.cat([batch.images for batch in batches])
        [whole] = self._maps(base, samples, images, 1)
        first, *_, last = self._maps(fed, samples, images, fed.model.segments)
        maps = {"no feedback": whole, "first segment": first, "last segment": last}
        shown = images.numpy().transpose(0, 2, 3, 1) / 255
        shown = shown[..., 0] if shown.shape[-1] == 1 else shown
        return _Seen(shown, maps)

    @torch.no_grad()
    def _maps(self, run: Run, samples: Samples, images: Tensor, parts: int) -> list[np.ndarray]:
        """Of so many equal parts of time the map of each picture, `[n, h, w]`."""
        name = list(attentions(run.model))[-1]
        found: list[list[np.ndarray]] = [[] for _ in range(parts)]
        with computing(run.config, run.device):
            for batch in images.split(run.setup.plan.micro_batch):
                with measure_attention(run.model, name) as segments:
                    run.model(to_device(batch, samples.mean, samples.std, run.device))
                maps = activation_map(torch.cat(segments), self.gamma)
                for part, of_part in zip(found, maps.chunk(parts), strict=True):
                    part.append(of_part.mean(0).double().cpu().numpy())
        return [np.concatenate(part) for part in found]

    def _caption(self, base: Run, fed: Run, seen: Mapping[str, _Seen], rows: Sequence[Mapping[str, object]]) -> str:
        kinds = [kind for kind in seen if kind != CLEAN]
        grid = "x".join(str(side) for side in seen[CLEAN].maps["no feedback"].shape[1:])
        means = []
        for panel in seen[CLEAN].maps:
            values = [row["likeness"] for row in rows if row["panel"] == panel and row["corruption"] in kinds]
            known = [value for value in values if isinstance(value, float)]
            means.append(f"{panel} {np.mean(known):.3f}" if known else f"{panel} (silent)")
        grey = "" if "saturate" in kinds else "; the pictures are grey, so `saturate` is left out"
        return (
            f"{self._about(base, fed)} Spike activation maps of test picture {self.image} of {self.images}, "
            f"{len(kinds)} kinds of corruption at severity {self.severity}, made here, not CIFAR-10-C{grey}. "
            "In each group from left to right: the picture, the map without feedback, that of the first segment and "
            "that of the last. A map is M = sum_k N_k S_k of the spikes S that enter the output projection of the last "
            f"attention, on its grid of {grid} tokens, N a neuron's spikes so far, each weighted "
            f"exp(-{self.gamma:g} dt) (Kim and Panda 2021); the mean over a segment's steps, from 0 to its own largest "
            "value; a picture without a map has no spike there. How alike the map of a corrupted picture is to that of "
            f"the original (cosine, where both have spikes, mean over {self.images} pictures and {len(kinds)} kinds): "
            f"{', '.join(means)}."
        )

    def _about(self, base: Run, fed: Run) -> str:
        """A sentence on the two runs."""
        raise NotImplementedError


@FIGURES.register("4")
@dataclass(frozen=True, kw_only=True)
class TwoStages(_Attention):
    """A T of 1, read as two passes over one step, against one step without feedback."""

    title: ClassVar[str] = "Attention in two feedforward stages, T = 1, on corrupted pictures"

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        base, fed = self.sides(runs)
        if base.model.time_steps != 1 or fed.model.time_steps != 2 or fed.model.segments != 2:
            raise RunError(
                "T = 1 in two stages is a run of time_steps=2 and segments=2 beside one of time_steps=1 without "
                f"feedback, and these have T = {fed.model.time_steps} in {fed.model.segments} segments and "
                f"T = {base.model.time_steps}; give such runs, or draw figure 5"
            )

    def _about(self, base: Run, fed: Run) -> str:
        return (
            "A T of 1 cannot be cut, so its two stages are read as two passes over one step (`time_steps=2, "
            "segments=2`), beside a baseline of one step."
        )


@FIGURES.register("5")
@dataclass(frozen=True, kw_only=True)
class Segments(_Attention):
    """As many time steps with and without feedback."""

    title: ClassVar[str] = "Attention over segments on corrupted pictures"

    def check(self, runs: Sequence[Run]) -> None:
        super().check(runs)
        base, fed = self.sides(runs)
        if base.model.time_steps != fed.model.time_steps:
            raise RunError(
                f"it compares runs of as many time steps, and these have {base.model.time_steps} and "
                f"{fed.model.time_steps}; give such runs, or draw figure 4"
            )

    def _about(self, base: Run, fed: Run) -> str:
        return f"T = {fed.model.time_steps}, with feedback in {fed.model.segments} segments."


def _row(clean: _Seen, kind: str, one: _Seen, panel: str, shown: int) -> dict[str, object]:
    """Of a kind and a panel: how alike its maps are to those of the original, how many pictures that is of, the share
    of all without a spike, and the map that is shown."""
    alike = [_alike(a, b) for a, b in zip(clean.maps[panel], one.maps[panel], strict=True)]
    known = [value for value in alike if value is not None]
    return {
        "corruption": kind,
        "panel": panel,
        "likeness": float(np.mean(known)) if known else None,
        "pictures": len(known),
        "silent": float(np.mean([not found.any() for found in one.maps[panel]])),
        "map": one.maps[panel][shown].round(4).tolist(),
    }


def _alike(one: np.ndarray, other: np.ndarray) -> float | None:
    """The cosine of two maps; None where one is empty."""
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum() / size) if size else None


def _drawn(seen: Mapping[str, _Seen], number: int) -> Drawing:
    """A row of panels for each kind: the picture, then the maps over it."""
    from matplotlib.figure import Figure as Sheet

    panels = list(next(iter(seen.values())).maps)
    rows, columns = -(-len(seen) // BLOCKS), 1 + len(panels)
    drawing = Sheet(figsize=(PAGE, PAGE * (rows + 0.6) / (BLOCKS * (columns + 0.5)) * 0.82))
    axes = drawing.subplots(rows, BLOCKS * columns, squeeze=False)
    for one in axes.flat:
        one.axis("off")
    for place, (kind, of) in enumerate(seen.items()):
        row, left = place % rows, place // rows * columns
        picture = of.shown[number]
        size = picture.shape[:2]
        for column, panel in enumerate([None, *panels]):
            one = axes[row, left + column]
            one.imshow(picture, cmap="gray", vmin=0, vmax=1)
            if panel is None:
                one.text(
                    -0.08, 0.5, kind.replace("_", "\n"), transform=one.transAxes, ha="right", va="center", size=4.5
                )
            elif of.maps[panel][number].any():
                found = of.maps[panel][number]
                one.imshow(
                    found, alpha=0.6, vmin=0, vmax=found.max(), extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
                )
            if row == 0:
                one.set_title("picture" if panel is None else panel.replace(" ", "\n"), size=5)
    return drawing
