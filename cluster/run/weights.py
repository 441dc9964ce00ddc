"""Weights that an argument names: FILE, RUN (a run's newest good checkpoint), RUN@STEP; and those a run begins with.

Of a checkpoint they are the averaged ones, where there are some. Nothing in a file is run: see `tdformer.weight_files`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from tdformer.digest import PROGRAMS, Described, beside, described, of_tensors
from tdformer.errors import ModelError
from tdformer.options import Options
from tdformer.weight_files import read_file

from .. import config as configs
from ..config import Config
from ..errors import RunError
from . import checkpoint
from .cards import names, told
from .folder import STEP, RunFolder


@dataclass(frozen=True)
class Source:
    """Where weights lie: a file, or a checkpoint of the run in the folder `run`."""

    path: Path
    run: Path | None = None

    @property
    def settings(self) -> Path:
        """The configuration of the run."""
        assert self.run is not None
        return self.run / "config.yaml"

    def __str__(self) -> str:
        """An argument that leads there: FILE or RUN@STEP."""
        return str(self.path) if self.run is None else f"{self.run}@{checkpoint.step_of(self.path)}"


@dataclass(frozen=True)
class Trained:
    """Weights and what is known of them.

    options: of `create_model`, for the model that they were trained in; classes: the names of its outputs, in their
    order; frames: whether its data were frames in time; step: of training. None: nobody has said it. settings: the file
    that the run's configuration is in, or (`kept`) that is described in it. about: all that is stored beside them, of a
    file without a description the card in its header. unread, averaged: see `tdformer.pretrained.Report`.
    """

    source: Source
    weights: dict[str, Tensor]
    options: Options | None = None
    classes: list[str] | None = None
    frames: bool | None = None
    step: int | None = None
    settings: Path | None = None
    kept: object = None
    about: Described = field(default_factory=Described)
    unread: list[str] = field(default_factory=list)
    averaged: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors and their names: that of a checkpoint is that of its exports."""
        return of_tensors("", self.weights)

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The configuration of the run that they are of, with overrides; see `config.stored`. Raises RunError where
        nothing says it."""
        if self.settings is None:
            raise RunError(
                f"{self.source} has no description beside it, as `tdformer export` writes; give the run or an export"
            )
        return configs.stored(self.settings, overrides, self.kept)


def located(given: str | Path) -> Source:
    """What FILE, RUN or RUN@STEP means, or the folder of one checkpoint. A path that is there is meant as it is: @ may
    be in its name. Raises RunError where nothing of the kind is there."""
    path = Path(given)
    if os.path.isfile(path):
        return Source(path)
    if os.path.isdir(path):
        root = path.absolute().parent.parent
        if (path / "config.yaml").is_file():
            found = checkpoint.newest_good(path / "checkpoints", warn)
            if found is None:
                raise RunError(f"{path} has no checkpoint yet; train it first")
            return Source(found, path)
        if STEP.fullmatch(path.name) and (root / "config.yaml").is_file():
            return Source(path, root if path.is_absolute() else Path(os.path.relpath(root)))
        raise RunError(f"{path} is neither a run folder nor a checkpoint in one; give runs/NAME or runs/NAME@STEP")
    run, _, step = str(given).rpartition("@")
    if not run or not os.path.isfile(Path(run, "config.yaml")):
        raise RunError(f"{given}: no such run folder, checkpoint or file; give runs/NAME, runs/NAME@STEP or FILE")
    there = {checkpoint.step_of(p): p for p in reversed(checkpoint.complete(Path(run, "checkpoints")))}
    if not re.fullmatch("[0-9]{1,18}", step) or int(step) not in there:
        has = f"those of step {configs.either([*map(str, there)])}" if there else "none yet"
        raise RunError(f"{run} has no checkpoint of step {configs.show(step)}; it has {has}")
    return Source(there[int(step)], Path(run))


def read(source: Source, verified: bool = False) -> Trained:
    """The weights, compared with their digests where they have some; those of a checkpoint that is `verified` are not.
    Raises RunError or ModelError where they are damaged, or would run code."""
    path = source.path
    if source.run is not None:
        weights, saved = checkpoint.load_weights(path, verified)
        known = saved["model"], names(saved.get("classes")), saved.get("frames"), checkpoint.step_of(path)
        return Trained(source, weights, *known, source.settings, about=saved)
    if path.suffix in PROGRAMS:
        raise RunError(
            f"{path} is a program, whose weights are folded into it; give a .safetensors or .pt file, or the run"
        )
    about = described(path)
    file = read_file(path, verified=about is not None)
    weights = file.weights(str(path))
    if about is None:  # its header may have a card
        card = told(file.card or {}, path)
        return Trained(
            source,
            weights,
            file.model,
            card["classes"],
            step=card["step"],
            about=card,
            unread=file.unread,
            averaged=file.averaged,
        )
    said = about["model"], names(about.get("classes")), about.get("frames"), about["step"]
    return Trained(source, weights, *said, beside(path), about["config"], about, file.unread)


def settle(folder: RunFolder, config: Config) -> None:
    """Fill in which weights a run begins with, has begun with, or was launched with: RUN becomes RUN@STEP, and the
    digest is theirs.

    A run that has a checkpoint goes on from that, so its first weights may be gone; where they are there, they are
    looked at. Raises RunError or ModelError where weights that are needed are not there, or are not those of
    `model.weights_sha256`.
    """
    asked = config.model
    if asked.weights is None:
        return
    known = next((noted for noted in _noted(folder) if _same(asked.weights, noted.weights or "")), None)
    if known is not None and known.weights is not None:
        try:
            found = read(located(known.weights)).digest
        except (RunError, ModelError):
            if not folder.unsaved():
                asked.weights, asked.weights_sha256 = known.weights, asked.weights_sha256 or known.weights_sha256
                return
        else:
            _pin(asked, known.weights, found)
            return
    source = located(asked.weights)
    _pin(asked, str(source), read(source).digest)


def _noted(folder: RunFolder) -> Iterator[configs.ModelConfig]:
    """Where it says with which weights, of which digest, it was begun or launched."""
    for file in (folder.config_file, folder.launch_file):
        if file.exists() and (noted := folder.stored(file).model).weights_sha256 is not None:
            yield noted


def _pin(asked: configs.ModelConfig, weights: str, digest: str) -> None:
    if asked.weights_sha256 not in (None, digest):
        raise RunError(
            f"{weights} has SHA-256 {digest}, model.weights_sha256 is {asked.weights_sha256}; give the weights that "
            "are meant"
        )
    asked.weights, asked.weights_sha256 = weights, digest


def _same(given: str, known: str) -> bool:
    """Whether an argument leads to where a run's first weights were."""
    one, other = map(_argument, (given, known))
    run, _, step = other.rpartition("@")
    return one == other or (one == run and step.isdecimal() and not os.path.exists(known))


def _argument(given: str) -> str:
    path = Path(os.path.abspath(given))
    if STEP.fullmatch(path.name) and path.parent.name == "checkpoints":
        return f"{path.parent.parent}@{checkpoint.step_of(path)}"
    return str(path)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
