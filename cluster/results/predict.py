"""What a trained model says of files that somebody has: each is seen as the test set is in evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.errors import DataError
from pipelines.loader import time_first, to_device
from pipelines.samples import Array
from pipelines.views.files import FileSamples
from tdformer.digest import Described
from tdformer.measure import measure_rates

from ..build.data import as_samples, check_kind, input_facts
from ..build.setup import Setup
from ..config import Config, check_commands, named, stored
from ..config.overrides import UNBOUND, for_evaluation
from ..errors import RunError
from ..run.weights import located, read, warn
from ..train.evaluate import computing
from ..train.tally import TOP
from . import undescribed
from .exported import Exported

Model = Callable[[Tensor], Tensor]


Likely = TypedDict("Likely", {"class": str, "number": int, "probability": float})


class Row(TypedDict, total=False):
    """See `predict`."""

    image: str
    top: list[Likely]
    logits: list[float]
    firing: dict[str, float]


@dataclass(frozen=True)
class _Trained:
    """A model to be used, from a run or a file: what is stored of it, and what makes it, fitted to samples, with how
    many of them it takes at once. told: of a file that nothing lies beside."""

    where: Path
    config: Config
    stored: Described
    make: Callable[[Setup], tuple[Model, int]]
    device: torch.device
    told: bool = False


def predict(
    source: str | Path,
    files: Sequence[Path],
    overrides: Sequence[str] = (),
    firing: bool | None = None,
    fault: Callable[[str], None] = lambda line: None,
) -> Iterator[Row]:
    """What the model of RUN, RUN@STEP, a checkpoint or an exported file says of pictures or recordings, a row for each:
    `image`, its path; `top`, the likeliest classes, each with `class`, `number` and `probability`; `logits` of all;
    `firing`, the spikes per neuron and time step of each layer, by its name.

    files: or folders of them, whose files are taken in the order of their names. overrides: `plugins`,
    `train.micro_batch`, and `data.root` where the data's mean and std are not stored; the model and the data of weights
    that nobody has described. firing: whether it is measured;
    None: where it can be, which is not in a program. fault: told, in a line, of each file that cannot be read, which
    has no row. Raises RunError, DataError or ModelError where the model cannot be used.
    """
    trained = _trained(source, overrides)
    facts, given = trained.stored.get("input"), named(overrides)
    taken = {"plugins", "train.micro_batch"} | ({"data.root"} if facts is None else set())
    taken |= set(undescribed.DATA) if trained.told and facts is None else set()
    for key in given:
        if key not in taken and not (trained.told and key.startswith("model.")):
            raise RunError(f"{key} changes nothing in a prediction; leave it out")
    classes = trained.stored.get("classes")
    if facts is None:  # nobody has said it, or an earlier version: the shards know
        shards = Setup.to_evaluate(trained.config).samples
        facts, classes = input_facts(shards), classes or shards.class_names
    data = as_samples(files, facts, classes or (), trained.where)
    if data.skipped:
        warn(f"not read: {data.skipped}")
    check_kind(trained.config.data, data)
    setup = Setup(trained.config, 1, data)
    view, (model, batch) = setup.view, trained.make(setup)
    if isinstance(model, nn.Module):
        model.to(trained.device)
    elif firing:
        raise RunError(f"{source} is a program, whose layers cannot be looked into; leave --firing out")
    looked_into = isinstance(model, nn.Module) and firing is not False
    with computing(trained.config, trained.device):
        waiting: list[int] = []
        samples: list[Array] = []
        for i in range(len(data)):
            try:
                samples.append(data.image(i) if view is None else view.see(data, i, None))
                waiting.append(i)
            except DataError as error:
                path = str(data.paths[i])
                fault(str(error) if path in str(error) else f"{path}: {error}")
            if waiting and (len(waiting) == batch or i + 1 == len(data)):
                yield from _rows(model, data, waiting, samples, trained.device, looked_into)
                waiting, samples = [], []


@torch.no_grad()
def _rows(
    model: Model, data: FileSamples, ids: Sequence[int], samples: Sequence[Array], device: torch.device, firing: bool
) -> list[Row]:
    """The rows of a batch. Here the gradients are off, and not in `predict`, whose caller runs in between."""
    images = to_device(torch.from_numpy(np.stack(samples)), data.mean, data.std, device)
    looked: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
    if firing:
        looked = measure_rates(cast(nn.Module, model))
    with looked as rates:
        logits = model(time_first(images)).float()
    probabilities = logits.softmax(1)
    rows = []
    for k, i in enumerate(ids):
        best = probabilities[k].topk(min(TOP, logits.shape[1]))
        top: list[Likely] = [
            {"class": data.class_names[n] if n < data.classes else str(n), "number": n, "probability": p}
            for p, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        row: Row = {"image": str(data.paths[i]), "top": top, "logits": logits[k].tolist()}
        if firing:
            row["firing"] = {name: float(rate[k]) for name, rate in rates.items()}
        rows.append(row)
    return rows


def _trained(given: str | Path, overrides: Sequence[str]) -> _Trained:
    source, cpu = located(given), torch.device("cpu")
    if source.run is None:
        found = Exported.read(source.path, overrides)
        return _Trained(source.path, found.config, found.about, found.model, cpu, found.told is not None)
    file = source.settings
    check_commands(stored(file, [*UNBOUND, *overrides]), file, overrides, ["plugins", "data.root"])
    trained = read(source)
    assert trained.options is not None  # of a checkpoint they are known
    config, options = for_evaluation(trained.config, overrides, trained.options)

    def make(setup: Setup) -> tuple[Model, int]:
        return setup.trained(options, trained.weights, source.path), setup.plan.micro_batch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return _Trained(source.path, config, trained.about, make, device)
