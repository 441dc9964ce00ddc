"""Runs on corrupted pictures: each weights, kind and severity is evaluated once, and its result kept beside the run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TypedDict

import numpy as np

from pipelines.loader import eval_loader
from pipelines.samples import Samples, Seen
from pipelines.views.corrupted import CorruptedSet
from pipelines.views.corruptions import KINDS, SEVERITIES
from pipelines.views.like import Held, Some
from tdformer.kernels import ARITHMETIC

from ..config import named, show
from ..config.overrides import ELSEWHERE
from ..errors import RunError
from ..run.folder import RunFolder
from ..run.records import Rows, to_json
from ..train.evaluate import Evaluation
from ..train.tally import Tally

KEPT = "corrupted.jsonl"
"""In a run's folder."""
CLEAN = ("clean", 0)
SEED = 0
"""Of pictures that are corrupted here: the same for all runs, as the pictures of a published set are."""
IN_MEMORY = 2**30
"""Bytes of pictures of one kind and severity that are held for all runs; larger ones are made anew for each."""


class Row(TypedDict, total=False):
    """Of KEPT: which weights, evaluated how, on which pictures, kind and severity."""

    weights: str
    how: str
    kind: str
    severity: int
    pictures: str
    images: int
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Asked:
    """kinds: None for all that there are. folder: of a published set; None: pictures are corrupted here. images: how
    many of the test set; None: all. keep: a file for the results of all runs; None: KEPT in the folder of each."""

    kinds: tuple[str, ...] | None = None
    severities: tuple[int, ...] = SEVERITIES
    folder: Path | None = None
    images: int | None = None
    keep: Path | None = None


class Measured:
    """One run, and what is known of it. config: as it was trained; accuracies: shares of the pictures, by kind and
    severity, of which CLEAN is one."""

    def __init__(self, path: Path, asked: Asked, overrides: Sequence[str]) -> None:
        self.of = Evaluation(path, overrides)
        run = self.of.place.run
        assert run is not None
        self.path, self.folder = path, RunFolder(run)
        if run.resolve() == path.resolve() and self.folder.summary() is None:
            step = self.of.trained.step
            raise RunError(f"{path} is not finished (step {step}); wait, or give {path}@{step} for how it is now")
        self.config, self.options, self.step = self.of.trained.config(overrides), self.of.options, self.of.trained.step
        self.weights = self.of.trained.digest
        how = {"options": self.options, "precision": self.of.config.train.precision, "tf32": self.of.config.train.tf32}
        how |= {"view": repr(self.of.view), "arithmetic": ARITHMETIC[self.of.device.type], "classes": self.of.numbers}
        self._key = {"weights": self.weights, "how": _digest(to_json(how))}
        self._rows: Rows[Row] = Rows(asked.keep or run / KEPT)
        self._kept = {
            (row.get("pictures"), row.get("images")): float(row["accuracy"])
            for row in self._rows.whole("accuracy")[0]
            if self._key.items() <= row.items()
        }
        self.accuracies: dict[tuple[str, int], float] = {}

    def know(self, which: tuple[str, int], samples: Samples) -> bool:
        """Whether the result for these samples was kept; then it is taken."""
        kept = self._kept.get((_digest(samples.digest), len(samples)))
        if kept is not None:
            self.accuracies[which] = kept
        return kept is not None

    def measure(self, which: tuple[str, int], samples: Samples, seen: Samples, view: Seen | None) -> None:
        """Evaluate, and keep the result. seen: the samples, or what the view makes of them, and then without a view."""
        row = self.of.of(seen, view, Tally(), 0 if isinstance(seen, Held) else None)
        facts = {"kind": which[0], "severity": which[1], "pictures": _digest(samples.digest), "images": len(samples)}
        self._rows.append(self._key | facts | {"accuracy": row["accuracy"], "loss": row["loss"]})
        self.accuracies[which] = row["accuracy"]


@dataclass(frozen=True)
class Results:
    """What was measured of all runs. kinds and severities: those of each; left_out: kinds that grey pictures have not;
    pictures: where they are from, in words; published: whether from a published set."""

    runs: Sequence[Measured]
    kinds: tuple[str, ...]
    left_out: tuple[str, ...]
    severities: tuple[int, ...]
    images: int
    pictures: str
    published: bool


def measured(
    paths: Sequence[Path], asked: Asked, overrides: Sequence[str] = (), told: Callable[[str], None] = lambda line: None
) -> Results:
    """Evaluate runs on their test set and on corrupted pictures of it. What was kept is not evaluated again, so that a
    command that was killed goes on. told: of what is evaluated now, in a few words.

    Raises RunError for runs of different test sets and for what `Evaluation` refuses; DataError for a corrupted set
    that is not whole, or has not these kinds.
    """
    for key in named(overrides):
        if key not in ELSEWHERE | {"train.micro_batch"}:
            raise RunError(f"{key} changes nothing here: runs are compared as they are; leave it out")
    runs = [Measured(path, asked, overrides) for path in paths]
    first = runs[0].of
    for run in runs[1:]:
        if differs := _differs(first, run.of):
            raise RunError(f"{run.path} has {differs} than {runs[0].path}; compare runs of the same test set")
    source = first.corrupted(asked.folder, SEED)
    kinds = source.kinds if asked.kinds is None else asked.kinds
    for kind in kinds:
        source.read(kind, SEVERITIES[0])  # what is wrong with it shows before the first evaluation
    if asked.images and not asked.images <= len(first.data):
        raise RunError(f"--images {asked.images}: the test set has {len(first.data)}; leave it out for all of them")
    for which, samples in _sets(first.data, source, kinds, asked):
        left = [run for run in runs if not run.know(which, samples)]
        if left:
            told(f"{which[0]}, severity {which[1]}: {len(left)} of {len(runs)} runs")
            view = first.view if which == CLEAN else first.seen(source)
            seen = _held(first, samples, view) if len(left) > 1 else samples
            for run in left:
                run.measure(which, samples, seen, None if isinstance(seen, Held) else view)
    left_out = () if asked.kinds else tuple(kind for kind in KINDS if kind not in source.kinds)
    images = asked.images or len(first.data)
    made = asked.folder is None
    pictures = (
        f"the test set of {first.config.data.dataset}, corrupted here, seed {SEED}" if made else str(asked.folder)
    )
    return Results(runs, kinds, left_out, asked.severities, images, pictures, not made)


def _sets(
    clean: Samples, source: CorruptedSet, kinds: Sequence[str], asked: Asked
) -> Iterator[tuple[tuple[str, int], Samples]]:
    """The clean pictures, then each kind at each severity: all of them, or as many as were asked for."""

    def some(samples: Samples) -> Samples:
        return Some(samples, asked.images) if asked.images else samples

    yield CLEAN, some(clean)
    for kind, severity in product(kinds, asked.severities):
        yield (kind, severity), some(source.read(kind, severity))


def _held(of: Evaluation, samples: Samples, view: Seen | None) -> Samples:
    """What is seen of the samples, in memory; the samples themselves where that would be too large."""
    channels, height, width = samples.shape
    one = view.bytes(channels) if view is not None else channels * height * width
    if not one or one * len(samples) > IN_MEMORY:
        return samples
    batches = eval_loader(samples, batch_size=of.setup.plan.micro_batch, workers=of.config.data.workers, view=view)
    return Held(samples, np.concatenate([batch.images.numpy() for batch in batches]))


def _differs(one: Evaluation, other: Evaluation) -> str | None:
    """In a few words, what another test set the second has."""
    for key in ("dataset", "size"):
        here, there = getattr(one.config.data, key), getattr(other.config.data, key)
        if here != there:
            return f"another data.{key} ({show(there)}, not {show(here)})"
    if repr(one.view) != repr(other.view):
        return "another view of the pictures (data.crop_ratio)"
    if one.data.digest != other.data.digest:
        return f"another test set ({other.data.folder}, not {one.data.folder})"
    return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
