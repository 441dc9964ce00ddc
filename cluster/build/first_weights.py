"""The weights that a run begins with, put into its model (`model.weights`), and a report of what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.samples import Samples
from tdformer import TDFormer
from tdformer.pretrained import Head, Report, fit

from ..config import Config, show
from ..errors import RunError
from ..run.weights import Trained, located, read

OF_THE_DATA = ("image_size", "in_channels", "num_classes")
OF_THE_RUN = ("recompute", "border_dtype", *OF_THE_DATA)
"""Options that differ without a word: they are the data's, or of how it is computed."""


@dataclass(frozen=True)
class Begun:
    """What a run has begun with. weights: FILE or RUN@STEP; sha256: of its tensors; step: of its training; options:
    those of the model that differ there from here, `[there, here]`."""

    weights: str
    sha256: str
    step: int | None
    options: dict[str, list[object]]
    report: Report

    def row(self) -> dict[str, object]:
        """The whole of it, for weights.json."""
        return {**self.__dict__, "report": dict(self.report.__dict__)}

    def __str__(self) -> str:
        report = self.report
        words = [f"{len(report.loaded)} tensors loaded"]
        words += [f"{len(report.adapted)} of them adapted"] * bool(report.adapted)
        words += [f"{len(report.fresh)} new ({', '.join(_parts(report.fresh))})"] * bool(report.fresh)
        words += [f"{len(report.skipped)} left"] * bool(report.skipped)
        words += [f"the averaged ones ({report.averaged})"] * (report.averaged is not None)
        words += [f"{key} {show(there)} there, {show(here)} here" for key, (there, here) in self.options.items()]
        return f"begins with {self.weights} (SHA-256 {self.sha256[:12]}): {', '.join(words)}"


def _parts(names: Sequence[str] | dict[str, str]) -> list[str]:
    """What new tensors are of."""
    kinds = {"head.": "head", ".control.": "feedback", ".neuron.w": "tau"}
    return list(dict.fromkeys(next((kind for part, kind in kinds.items() if part in name), name) for name in names))


def begin(model: TDFormer, config: Config, data: Samples, verified: bool = False) -> Begun:
    """Load `model.weights` into `model`, which is to train on `data`; into one on meta nothing but what does not fit is
    found. verified: this process or another one of the machine compares their digest, `model.weights_sha256`. Raises
    RunError or ModelError for weights that are not there or not those of `model.weights_sha256`, that are
    damaged, or of another architecture.

    The head: rows whose classes are found there by their names, all or none. Where nobody has said the names, the rows
    by their numbers, if there are as many.
    """
    assert config.model.weights is not None
    asked = config.model.weights_sha256
    trained = read(located(config.model.weights), verified)
    digest = asked if verified and asked else trained.digest
    if asked not in (None, digest):
        raise RunError(
            f"{trained.source} has SHA-256 {digest} here, the run begins with {asked}; copy those weights here"
        )
    torch.manual_seed(config.seed)  # a new head is the same, whatever else was made in this process
    head = _head(trained, data.class_names, model.config["num_classes"], config.model.weights_head)
    report = fit(model, trained.weights, str(trained.source), trained.options, head)
    report.unread, report.averaged = trained.unread, trained.averaged
    options, own = trained.options or {}, model.config
    differ = {k: [options[k], own[k]] for k in own if k in options and k not in OF_THE_RUN and options[k] != own[k]}
    return Begun(str(trained.source), digest, trained.step, differ, report)


def _head(trained: Trained, classes: Sequence[str], outputs: int, asked: str) -> Head:
    if asked == "new":
        return Head([None] * outputs, "model.weights_head is new")
    known = trained.classes
    if known is None or (known == list(classes) and len(known) == outputs):
        return Head()
    missing = next((name for name in classes if name not in known), None)
    if missing is not None:
        return Head([None] * outputs, f"class {missing!r:.40} is none of those there")
    rows: list[int | None] = [known.index(name) for name in classes]
    return Head(rows + [None] * (outputs - len(rows)), f"{len(rows)} classes by name, of {len(known)}")
