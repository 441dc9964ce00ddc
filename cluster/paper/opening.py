"""A run that figures are drawn from: its model with trained weights, and what it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipelines.loader import time_first, to_device
from pipelines.samples import Samples
from tdformer import TDFormer
from tdformer.digest import PROGRAMS, Described
from tdformer.options import Options

from ..build.setup import Setup
from ..config import Config, check_commands, named, show, stored
from ..config.overrides import UNBOUND, for_evaluation
from ..errors import RunError
from ..results.card import facts
from ..results.exported import Exported
from ..run.folder import RunFolder
from ..run.weights import Trained, located, read
from ..train.evaluate import class_numbers, computing, renumbered

FEEDBACK = frozenset(("segments", "feedback", "cm", "pm", "mixer", "clamp", "segment_norm", "border_dtype"))
"""Options of a model that say how it is fed back, or that follow from it."""
_UNSEEN = frozenset(("recompute",))
"""Options that change no number."""


class Facts(Described, total=False):
    """What is known of the weights, and the date on which the run was begun."""

    began: str | None


@dataclass(frozen=True)
class Run:
    """given: the argument that names it, RUN, RUN@STEP or FILE; options: of its model. Its parts are made when they are
    first asked for, and once."""

    given: str
    trained: Trained
    config: Config
    options: Options

    @classmethod
    def open(cls, given: str, overrides: Sequence[str] = ()) -> Run:
        """overrides: `plugins`, `data.root` and `train.micro_batch`. Raises RunError or ModelError where there are no
        weights, they are damaged, or they are of a program, into which nobody can look."""
        for key in named(overrides):
            if key not in ("plugins", "data.root", "train.micro_batch"):
                raise RunError(f"{key} changes nothing in a figure; leave it out")
        source = located(given)
        if source.run is None:
            if source.path.suffix in PROGRAMS:
                raise RunError(f"{given} is a program, whose layers cannot be looked into; give the run")
            trained = read(source)
            if trained.settings is None:
                raise RunError(f"{given}: nothing beside it says its model and its data; `tdformer export` it first")
            exported = Exported.read(source.path, overrides)
            return cls(given, trained, exported.config, exported.options)
        file = source.settings
        check_commands(stored(file, [*UNBOUND, *overrides]), file, overrides, ["plugins", "data.root"])
        trained = read(source)
        assert trained.options is not None  # of a checkpoint they are known
        return cls(given, trained, *for_evaluation(trained.config, overrides, trained.options))

    @cached_property
    def setup(self) -> Setup:
        return Setup.to_evaluate(self.config)

    @property
    def data(self) -> Samples:
        """The test set."""
        return self.setup.samples

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def model(self) -> TDFormer:
        """With its trained weights, in evaluation mode. Who changes it changes it back: other figures draw it too."""
        return self.setup.trained(self.options, self.trained.weights, self.trained.source.path).to(self.device)

    @property
    def fed(self) -> bool:
        """Whether a segment steers the next one."""
        return bool(self.model.config["feedback"]) and self.model.segments > 1

    @property
    def label(self) -> str:
        """How a legend calls it, by its feedback; repeated with other seeds it has the same."""
        return f"feedback ({self.model.config['mixer']})" if self.fed else "no feedback"

    @cached_property
    def facts(self) -> Facts:
        """What the model card says of the weights, and `began`: the UTC date of the run's first start, None where no
        run is there."""
        known = facts(self.model, self.trained, self.config)
        where = self.trained.source.run
        starts = [] if where is None else RunFolder(where).starts.whole()[0]
        began = [row["time"] for row in starts if isinstance(row.get("time"), str)]
        return {**known, "began": began[0][:10] if began else None}

    def batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Some `count` samples of the test set, or all if it has fewer: those that lie evenly in it, so the same ones
        for all runs on it. As the model is given them, images `[B, C, H, W]` or frames `[T, B, C, H, W]`, and their
        labels `[B]`.

        While it is read, the run's precision holds: what is computed with a batch is computed as in its evaluation.
        Read it to its end, and no other run's before.
        """
        data, view, batch = self.data, self.setup.view, self.setup.plan.micro_batch
        count = min(count, len(data))
        ids = np.arange(count, dtype=np.int64) * len(data) // count
        parts = [ids[i : i + batch] for i in range(0, count, batch)]
        numbers = class_numbers(self.trained.classes, data, self.trained.source.path)
        with computing(self.config, self.device), data.following(parts, None) as reads:
            for number, part in enumerate(parts):
                reads(number)
                seen = [data.image(i) if view is None else view.see(data, i, None) for i in part.tolist()]
                images = to_device(torch.from_numpy(np.stack(seen)), data.mean, data.std, self.device)
                labels = renumbered(torch.from_numpy(data.labels[part].astype(np.int64)), numbers)
                yield time_first(images), labels.to(self.device)


def check_alike(runs: Sequence[Run], varies: frozenset[str] = FEEDBACK) -> None:
    """Raises RunError, naming the first difference, where runs cannot be compared: other data, seen otherwise, or
    another model, but for the options that `varies` names."""
    first = runs[0]
    for other in runs[1:]:
        pairs = [
            ("data", first.data.digest, other.data.digest),
            ("data.size", first.config.data.size, other.config.data.size),
            ("data.crop_ratio", first.config.data.crop_ratio, other.config.data.crop_ratio),
            ("data.frames", first.config.data.frames, other.config.data.frames),
            ("classes", first.trained.classes, other.trained.classes),
        ]
        one, two = first.model.config, other.model.config
        keys = [key for key in (*one, *(key for key in two if key not in one)) if key not in varies | _UNSEEN]
        pairs += [(f"model.{key}", one.get(key), two.get(key)) for key in keys]
        for key, here, there in pairs:
            if here != there:
                raise RunError(
                    f"{other.given} and {first.given} cannot be in one figure: {key} is {show(there)} and "
                    f"{show(here)}; give runs that differ in their feedback or their seed"
                )


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by their label, in the order in which labels first come: those of one differ in their seed."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.label, []).append(run)
    return found
