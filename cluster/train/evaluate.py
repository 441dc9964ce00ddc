"""Exact evaluation: every sample once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.classes import mapping
from pipelines.delivery import Delivery, lane
from pipelines.loader import NOT_COUNTED, eval_loader, time_first, to_device
from pipelines.samples import Samples, Seen
from pipelines.views.boxes import View
from pipelines.views.corrupted import CorruptedSet, Made, published
from pipelines.views.corruptions import BENCHMARK, SEVERITIES
from pipelines.workers import Workers
from tdformer import TDFormer

from ..build import devices, heap
from ..build.setup import Setup
from ..config import Config, check_commands, stored
from ..config.overrides import UNBOUND, for_evaluation
from ..errors import RunError
from ..run.weights import located, read, warn
from .tally import Tally


@torch.no_grad()
def evaluate(
    model: Callable[[Tensor], Tensor],
    data: Samples,
    device: torch.device,
    batch_size: int,
    workers: int | Workers,
    each: Callable[[], None] = lambda: None,
    view: Seen | None = None,
    numbers: Sequence[int] | None = None,
    tally: Tally | None = None,
) -> dict[str, float]:
    """Accuracy and cross-entropy of a model in evaluation mode; all ranks call it together. each: called for every
    batch. numbers: the model's number of each class of `data`; None: the same. tally: counts this rank's samples."""
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    loader = eval_loader(data, rank=rank, world=world, batch_size=batch_size, workers=workers, view=view)
    batches = Delivery(([replace(one, labels=renumbered(one.labels, numbers))] for one in loader), lane(device))
    for (batch,), _ in batches:
        each()
        images = to_device(batch.images, data.mean, data.std, device)
        labels = batch.labels.to(device)
        logits = model(time_first(images)).float()
        batches.send_next()
        if tally is not None:
            tally.add(logits, labels)
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(1) == labels).sum()
        sums += torch.stack([loss, correct, (labels != NOT_COUNTED).sum()])
    if world > 1:
        dist.all_reduce(sums)
    loss_sum, correct_sum, count = sums.tolist()
    if count != len(data):
        raise RuntimeError(f"evaluation saw {count:.0f} of {len(data)} samples")
    return {"accuracy": correct_sum / count, "loss": loss_sum / count}


def renumbered(labels: Tensor, numbers: Sequence[int] | None) -> Tensor:
    """Labels of a data set, `[B]`, as the model's, from the model's number of each of its classes."""
    if numbers is None:
        return labels
    return torch.where(labels == NOT_COUNTED, labels, torch.tensor(numbers)[labels.clamp(min=0)])


def class_numbers(classes: Sequence[str] | None, data: Samples, of: Path) -> list[int] | None:
    """The number of each class of `data` in `classes`, those that the model in `of` was trained on; None: the same.

    Raises DataError, naming the first difference, where they are other classes. A model of an earlier version, or of
    somebody else, does not say its classes: a warning, and nothing is compared.
    """
    if classes is None:
        warn(f"{of} does not name its classes: not compared with those of {data.folder}")
        return None
    return mapping(classes, data.class_names, str(of), str(data.folder))


class Evaluation:
    """The weights of RUN (its newest good checkpoint), RUN@STEP or one checkpoint, and the run's test set.

    seed: whether `overrides` may have one, of corruptions that are made. Raises RunError when there is no checkpoint,
    or it is damaged, or for an override that would have no effect; DataError for data of other classes or shapes.
    """

    def __init__(self, path: str | Path, overrides: Sequence[str] = (), seed: bool = False) -> None:
        self.place = place = located(path)
        if place.run is None:
            raise RunError(f"{path} is a file, neither a run folder nor a checkpoint; give runs/NAME or runs/NAME@STEP")
        check_commands(
            stored(place.settings, [*UNBOUND, *overrides]), place.settings, overrides, ["plugins", "data.root"]
        )
        self.trained = trained = read(place)
        assert trained.options is not None  # of a checkpoint they are known
        self.config, self.options = for_evaluation(trained.config, overrides, trained.options, corruptions=seed)
        self.setup = Setup.to_evaluate(self.config)
        self.data, self.view = self.setup.samples, self.setup.view
        self.numbers = class_numbers(trained.classes, self.data, place.path)

    @cached_property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def model(self) -> TDFormer:
        """On the device, in evaluation mode."""
        return self.setup.trained(self.options, self.trained.weights, self.place.path).to(self.device)

    def corrupted(self, folder: Path | None, seed: int) -> CorruptedSet:
        """The corrupted set in a folder, or, None, made of the test set. Raises DataError for a folder that holds none,
        RunError for a test set of events."""
        if not self.data.kind.pictures:
            what = f"the samples in {self.data.folder} are {self.data.kind.name}"
            raise RunError(f"--corruptions are of pictures, and {what}; leave them out")
        return published(folder, self.data) if folder else Made(self.data, seed)

    def seen(self, source: CorruptedSet) -> Seen | None:
        """How the pictures of a corrupted set are brought to one size: those that were cropped are taken whole."""
        if isinstance(self.view, View) and source.cropped:
            return replace(self.view, crop_ratio=1.0)
        return self.view

    def of(self, samples: Samples, view: Seen | None, tally: Tally, workers: int | None = None) -> dict[str, float]:
        """What `evaluate` and a tally say of samples. workers: None: those of the configuration."""
        workers = self.config.data.workers if workers is None else workers
        model, batch = self.model, self.setup.plan.micro_batch
        with computing(self.config, self.device):
            row = evaluate(model, samples, self.device, batch, workers, view=view, numbers=self.numbers, tally=tally)
        return row | tally.row()


def evaluate_run(
    path: str | Path,
    overrides: Sequence[str] = (),
    corruptions: Sequence[str] = (),
    corrupted_set: Path | None = None,
    tally: Tally | None = None,
) -> Iterator[dict[str, object]]:
    """Evaluate a run, see `Evaluation`, on its test set; then with each of `corruptions` (kinds, or `all`) at
    severities 1 to 5, made here or read from `corrupted_set`, and their mean. tally: an empty one, which gets the names
    of the classes and counts the first of these. Raises what `Evaluation` does, and DataError for a set that is not
    whole."""
    of = Evaluation(path, overrides, seed=bool(corruptions) and corrupted_set is None)
    kinds: tuple[str, ...] = ()
    if corruptions or corrupted_set:
        source = of.corrupted(corrupted_set, of.config.seed)
        kinds = source.kinds if list(corruptions) == ["all"] else tuple(corruptions)
        for kind in kinds:
            source.read(kind, SEVERITIES[0])  # what is wrong with it shows before the first evaluation
    tally = Tally() if tally is None else tally
    tally.names = list(of.trained.classes or of.data.class_names)
    yield {"checkpoint": str(of.place.path), "samples": len(of.data)} | of.of(of.data, of.view, tally)
    accuracies: dict[str, list[float]] = {kind: [] for kind in kinds}
    for kind, severity in product(kinds, SEVERITIES):
        row = of.of(source.read(kind, severity), of.seen(source), Tally())
        accuracies[kind].append(row["accuracy"])
        yield {"corruption": kind, "severity": severity} | row
    if kinds:
        yield _mean(accuracies)
    if set(BENCHMARK) < set(kinds):
        yield _mean({kind: accuracies[kind] for kind in BENCHMARK})


def _mean(accuracies: dict[str, list[float]]) -> dict[str, object]:
    every = [accuracy for of in accuracies.values() for accuracy in of]
    return {"corruption": "mean", "kinds": len(accuracies), "accuracy": sum(every) / len(every)}


@contextmanager
def computing(config: Config, device: torch.device) -> Iterator[None]:
    """`train.precision`, `train.threads` and `engine.deterministic` of a configuration, while the block lasts; and its
    way to calculate on a GPU, from now on."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    devices.exact(config.train.tf32, config.engine.deterministic)
    torch.set_num_threads(config.train.threads or before)
    heap.keep_freed()
    try:
        with devices.autocast(device, config.train.precision):
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
