"""A file that `export` wrote, or one of weights that nobody has described, and the model in it. Nothing in it is run
that another could have put there: see `read_program` for a .pt2 file, `onnx_graph` for an .onnx file, and
`read_weights` for the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tdformer.digest import PROGRAMS, Described, beside, described
from tdformer.errors import ModelError
from tdformer.options import Options
from tdformer.weight_files import read_weights

from ..build.setup import Setup
from ..config import Config, check_commands, stored
from ..config.layers import merged, of_override
from ..config.load import take_given
from ..config.overrides import for_evaluation
from ..config.precision import FULL
from ..errors import RunError
from ..run.weights import Source, Trained
from ..run.weights import read as read_trained
from . import onnx_graph, undescribed
from .program import read_program

READERS: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {".pt2": read_program, ".onnx": onnx_graph.read}
"""What reads the files of `PROGRAMS`, by their suffix."""


@dataclass(frozen=True)
class Exported:
    """about: the description that lies beside the file. config, options: of its evaluation, and of the model for it.
    told: of a file that nothing lies beside what stands in its place; see `undescribed`."""

    path: Path
    about: Described
    config: Config
    options: Options
    told: Trained | None = None

    @classmethod
    def read(cls, path: Path, overrides: Sequence[str] = ()) -> Exported:
        """What is said of a file. Raises RunError or ModelError where it is damaged, or where nothing says its model or
        its data."""
        take_given(merged(map(of_override, overrides)), overrides)  # what it describes may be of a plugin
        try:
            about = described(path)
        except ModelError:
            check_plugins(path, overrides)
            raise
        where, told = beside(path), None
        if about is None:
            if path.suffix in PROGRAMS:
                raise RunError(f"{where} cannot be read; `tdformer export` writes it beside {path.name}")
            where, told = path, undescribed.told(read_trained(Source(path)), overrides)
            undescribed.check_data(told, overrides)
            assert told.options is not None and isinstance(told.kept, dict)  # or that would have raised
            about = {**told.about, "model": told.options, "config": told.kept}
        program, kept = path.suffix if path.suffix in READERS else "", about["config"]

        def read(words: Sequence[str]) -> Config:
            return stored(where, words, kept)

        config, options = for_evaluation(read, overrides, about["model"], program=program)
        check_commands(config, where, overrides, ["plugins", "data.root"])
        if program:
            config.train.precision = FULL.name  # as its graph says
        return cls(path, about, config, options, told)

    def model(self, setup: Setup) -> tuple[Callable[[Tensor], Tensor], int]:
        """The model in evaluation mode, fitted to the samples of `setup`, and how many of them it is given at once."""
        if (reads := READERS.get(self.path.suffix)) is not None:
            batch = self.about["batch"]
            return _filled(reads(self.path), batch), batch
        weights = read_weights(self.path, verified=True) if self.told is None else self.told.weights
        return setup.trained(self.options, weights, self.path), setup.plan.micro_batch


def check_plugins(path: Path, overrides: Sequence[str]) -> None:
    """Raises RunError where a file was described with plugins that are not given again."""
    with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        kept = {"plugins": json.loads(beside(path).read_bytes())["config"]["plugins"]}
        check_commands(stored(beside(path), kept=kept), beside(path), overrides, ["plugins"])


def _filled(model: Callable[[Tensor], Tensor], batch: int) -> Callable[[Tensor], Tensor]:
    """A program for `batch` images that takes fewer too."""

    def run(images: Tensor) -> Tensor:
        axis = images.dim() - 4  # frames have time before the batch
        before, count, after = images.shape[:axis], images.shape[axis], images.shape[axis + 1 :]
        missing = images.new_zeros(*before, batch - count, *after)
        return model(torch.cat([images, missing], axis))[:count]

    return run
