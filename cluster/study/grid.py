"""The cells of a study: each point of its grid with its configuration, its processes, and its identity."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..build import planner
from ..build.data import Data, training_data
from ..build.setup import Setup
from ..config import NEUTRAL, Config, flat, norm_batch, resolve, show, stored
from ..config.plugins import name_of
from ..config.shape import Shape
from ..errors import RunError, user_errors
from ..plan.chips import chip
from ..plan.predict import predict
from .schema import CASE, SHAPE, SHARE, Point, Study, overrides

LONGEST = 100
"""Characters of a cell's name."""
NEAR = 0.1
"""How far from what a constraint asks whole epochs may be, as a share of it."""
REPEAT = "repeat"


@dataclass(frozen=True)
class Cell:
    """A run of a study. axes: its place in the grid, by key; digest: of what decides its numbers, of its processes, and
    of the code's revision."""

    name: str
    digest: str
    axes: Mapping[str, object]
    config: Config
    shape: Shape


def points_of(study: Study) -> Iterator[dict[str, str]]:
    """Every combination of the points of the axes and of repeats, the last axis first: what each sets."""
    count = study.options.repeats
    repeats: list[Point] = [{REPEAT: str(n)} for n in range(count)] if count > 1 else [{}]
    for points in itertools.product(*study.axes.values(), repeats):
        yield {key: value for point in points for key, value in point.items()}


def cells(study: Study, revision: str) -> list[Cell]:
    """All of a study, in the order of its axes; revision: of the code that runs them. Raises RunError for one that
    could never work, and for two that are the same."""
    data, found = _Read(), dict[str, Cell]()
    for point in points_of(study):
        try:
            cell = _cell(study, point, revision, data)
        except user_errors() as error:
            words = ", ".join(f"{key}={value}" for key, value in point.items())
            raise RunError(f"study {study.options.name}, cell {words}: {error}") from error
        if cell.digest in found:
            one = found[cell.digest].name
            raise RunError(f"study {study.options.name}: {one} and {cell.name} are the same run; leave one of them out")
        found[cell.digest] = cell
    return list(found.values())


def _cell(study: Study, point: Mapping[str, str], revision: str, data: _Read) -> Cell:
    nodes, processes, gpus = (int(point.get(key, usual)) for key, usual in SHAPE.items())
    shape = Shape(nodes, processes if "processes" in point else max(1, gpus), gpus)
    words = overrides({key: value for key, value in point.items() if key != REPEAT})
    config = stored(Path(f"study {study.options.name}"), words, kept=asdict(study.base))
    _constrain(config, study, shape, data)
    resolve(config, shape.world)
    settings = flat(config)
    axes = {key: _value(key, text, settings) for key, text in point.items()}
    digest = _identity(settings | _derived(config), axes, shape, study, revision)
    shown = {key: value for key, value in axes.items() if not (CASE in axes and key in _of_cases(study))}
    words_of = ",".join(f"{key.rpartition('.')[2]}={show(value)}" for key, value in shown.items())
    config.name = f"{re.sub(r'[^A-Za-z0-9_.=,+-]', '', words_of)[:LONGEST]}-{digest[:8]}"
    config.runs_dir = str(study.path.resolve() / "cells")
    return Cell(config.name, digest, axes, config, shape)


def _value(key: str, text: str, settings: Mapping[str, object]) -> object:
    """What an axis has at a point: a setting as the run has it."""
    if key in (*SHAPE, REPEAT):
        return int(text)
    return text.strip('"') if key == CASE else settings["data.share" if key == SHARE else key]


def _of_cases(study: Study) -> set[str]:
    return {key for point in study.axes.get("cases", ()) for key in point if key != CASE}


def _derived(config: Config) -> dict[str, object]:
    """As `config.differences` compares them."""
    return {"train.norm_batch": norm_batch(config), "plugins": [name_of(entry) for entry in config.plugins]}


def _identity(
    settings: Mapping[str, object], axes: Mapping[str, object], shape: Shape, study: Study, revision: str
) -> str:
    """SHA-256, in hexadecimal, of what two runs of the same numbers and the same measurements have in common: settings
    that decide numbers, or are an axis, where they are not the default's; processes; when it stops; the code; which
    failures it has."""
    usual = flat(Config())
    varied = {"data.share" if key == SHARE else key for key in axes}
    deciding = {
        key: value for key, value in settings.items() if value != usual[key] and (key not in NEUTRAL or key in varied)
    }
    facts = {
        "settings": deciding,
        "shape": [shape.nodes, shape.processes, shape.gpus],
        "repeat": axes.get(REPEAT, 0),
        "stop": asdict(study.options.stop) if study.options.stop else None,
        "revision": revision,
        **({"failures": asdict(study.options.failures)} if study.options.failures else {}),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _constrain(config: Config, study: Study, shape: Shape, data: _Read) -> None:
    """Set what the study's constraints decide: the global batch and the epochs. Raises RunError where whole epochs do
    not come near."""
    kept, train = study.options.constraints, config.train
    if kept.global_batch == "per_process":
        train.global_batch *= shape.world
    if kept.images is None and kept.flop is None:
        return
    setup = Setup(config, shape.world, *data.of(config))
    setup.check()
    epoch = len(setup.samples) // train.global_batch * train.global_batch
    wanted = kept.images if kept.flop is None else kept.flop / flop_image(setup)
    assert wanted is not None
    epochs = max(1, round(wanted / epoch))
    if abs(epochs * epoch - wanted) > NEAR * wanted:
        what = f"images={kept.images}" if kept.flop is None else f"flop={kept.flop:g}"
        raise RunError(
            f"constraints.{what} is {wanted / epoch:.2f} epochs of {epoch} images here, and whole epochs are more than "
            f"{NEAR:.0%} off; ask for more, or leave this cell out"
        )
    train.epochs = epochs


def flop_image(setup: Setup) -> float:
    """Operations of a training step for one image, nothing computed again: 2 a multiply-add. Raises RunError."""
    cost = planner.price(setup.outline, setup.config, setup.plan, "none", 1).cost
    if cost is None:
        raise RunError("constraints.flop: the operations of this model cannot be counted; use constraints.images")
    return cost.flops / setup.plan.micro_batch


def sized(cell: Cell) -> dict[str, object]:
    """Steps and images of a cell, and its plan: columns `predicted` of the table, those that are known before a machine
    is measured. Raises RunError, naming it, where it cannot be trained."""
    config, shape = cell.config, cell.shape
    try:
        setup = Setup.to_train(config, shape.world, trusted=True)
        setup.check()
        gpu = chip(config.site.gpu) if shape.gpus and config.site.gpu else None
    except user_errors() as error:
        raise RunError(f"cell {cell.name}: {error}") from error
    with suppress(RunError):  # where a step cannot be counted, it is trained all the same
        planned = {
            key: value for key, value in predict(setup, shape, gpu, search=False).row().items() if value is not None
        }
        return _length(setup) | {"plan": planned}
    return _length(setup)


def _length(setup: Setup) -> dict[str, object]:
    train = setup.config.train
    steps = train.epochs * (len(setup.samples) // train.global_batch)
    return {"steps": steps, "images": steps * train.global_batch}


class _Read:
    """Data sets, each read once for all cells."""

    def __init__(self) -> None:
        self.known: dict[str, Data] = {}

    def of(self, config: Config) -> Data:
        key = json.dumps(flat(config.data))
        if key not in self.known:
            self.known[key] = training_data(config, trusted=True)
        return self.known[key]
