"""A trained model as one file for others to use, and its evaluation.

MODEL.safetensors   weights, with the model's options in the header: `tdformer.from_pretrained`
MODEL.pt            a plain state dict, for torch.load(weights_only=True)
MODEL.pt2           a torch.export program of plain PyTorch operators, BatchNorm folded: it needs no tdformer

Beside each lies MODEL.SUFFIX.json: the model's options, the run's configuration, the checkpoint and its step, and a
SHA-256 of all that and of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tdformer
from pipelines import disk
from tdformer.digest import DIGEST, beside, described, of_file
from tdformer.errors import ModelError
from tdformer.norm import fold
from tdformer.pretrained import read_weights

from ..build.model import example, load_weights
from ..build.setup import Setup
from ..config import Config, check_commands, flat, named, stored
from ..config.layers import merged, of_override
from ..config.load import take_given
from ..config.overrides import for_evaluation
from ..config.plugins import name_of
from ..errors import RunError, disk_errors
from ..run.folder import write_atomic
from ..run.weights import located, read
from ..train.evaluate import class_numbers, computing, evaluate
from .program import read_program

SUFFIXES = (".safetensors", ".pt", ".pt2")


def export(source: str | Path, out: Path, batch: int = 1, overrides: Sequence[str] = ()) -> str:
    """Write the weights of RUN (its newest good checkpoint), RUN@STEP, one checkpoint or an exported file to `out`,
    whose suffix chooses the format; returns a line that says what was written. The averaged weights where there are
    some.

    batch: images that a .pt2 program takes at once. overrides: the run's plugins, again. An earlier export is replaced,
    any other file is not. Raises RunError for that, another suffix, or a checkpoint that is damaged.
    """
    if out.suffix not in SUFFIXES:
        raise RunError(f"{out}: the format follows the name; end it with one of {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder to write {out.name} to")
    for place in (out, beside(out)):
        if place.exists() and not _exported(out):
            raise RunError(f"{place} is there, and not as an export left it; name another file, or remove that one")
    where = located(source)
    for key in named(overrides):
        if key != "plugins":
            raise RunError(f"{key} changes nothing in an export; leave it out")
    take_given(merged(map(of_override, overrides)), overrides)  # what a file describes may be of a plugin
    try:
        trained = read(where)
    except ModelError:
        _check_plugins(where.path, overrides)
        raise
    config = trained.config(overrides)
    assert trained.settings is not None and trained.options is not None  # or that would have raised
    check_commands(config, trained.settings, overrides, ["plugins"])
    model = tdformer.create_model(**trained.options)
    load_weights(model, trained.weights, where.path)
    model.frames = trained.frames
    settled = flat(config) | {"plugins": [name_of(plugin) for plugin in config.plugins]}
    about: dict[str, Any] = {"model": trained.options, "config": settled, "classes": trained.classes}
    about |= {"checkpoint": str(where.path), "step": trained.step}
    with disk_errors(out), disk.whole(out, out.suffix) as file:
        if out.suffix == ".safetensors":
            tdformer.save_pretrained(model, file)
        elif out.suffix == ".pt":
            torch.save(model.state_dict(), file)
        else:
            torch.export.save(program(model, batch), file)
            about["batch"] = batch
        about[DIGEST] = of_file(file, about)
    write_atomic(beside(out), (json.dumps(about, indent=1) + "\n").encode())
    return f"{out}: step {trained.step} of {where.run or where.path}, {out.stat().st_size / 2**20:.1f} MiB"


def program(model: tdformer.TDFormer, batch: int) -> torch.export.ExportedProgram:
    """The evaluation of a model as a graph of plain PyTorch operators, for `batch` images or as many frames."""
    model = fold(model.eval())
    before = os.environ.get("TDFORMER_KERNELS")
    os.environ["TDFORMER_KERNELS"] = "reference"
    try:
        with torch.no_grad():
            return torch.export.export(model, (example(model, batch),), strict=False)
    finally:
        if before is None:
            del os.environ["TDFORMER_KERNELS"]
        else:
            os.environ["TDFORMER_KERNELS"] = before


def evaluate_export(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluate a file that `export` wrote on the test set of the run that it came from.

    Nothing in it is run that another could have put there: see `read_program` for a .pt2 file, `read_weights` for the
    others. Raises RunError or ModelError for one that is damaged.
    """
    take_given(merged(map(of_override, overrides)), overrides)  # what it describes may be of a plugin
    try:
        about = described(path)
    except ModelError:
        _check_plugins(path, overrides)
        raise
    if about is None:
        raise RunError(f"{beside(path)} cannot be read; `tdformer export` writes it beside {path.name}")
    program = path.suffix == ".pt2"

    def read(words: Sequence[str]) -> Config:
        return stored(beside(path), words, about["config"])

    config, options = for_evaluation(read, overrides, about["model"], program=program)
    check_commands(config, beside(path), overrides, ["plugins", "data.root"])
    setup = Setup.to_evaluate(config)
    data = setup.samples
    numbers = class_numbers(about.get("classes"), data, path)
    device = torch.device("cpu")
    model: Callable[[Tensor], Tensor]
    if program:
        batch, model = about["batch"], _filled(read_program(path), about["batch"])
        config.train.precision = "fp32"  # as its graph says
    else:
        weights = read_weights(path, verified=True)
        batch, model = setup.plan.micro_batch, setup.trained(options, weights, path)
    with computing(config, device):
        result = evaluate(model, data, device, batch, config.data.workers, view=setup.view, numbers=numbers)
    return {"file": str(path), "step": about["step"], "samples": len(data)} | result


def _check_plugins(path: Path, overrides: Sequence[str]) -> None:
    """Raises RunError where a file was described with plugins that are not given again."""
    with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        kept = {"plugins": json.loads(beside(path).read_bytes())["config"]["plugins"]}
        check_commands(stored(beside(path), kept=kept), beside(path), overrides, ["plugins"])


def _filled(model: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
    """A program for `batch` images that takes fewer too."""

    def run(images: Tensor) -> Tensor:
        axis = images.dim() - 4  # frames have time before the batch
        before, count, after = images.shape[:axis], images.shape[axis], images.shape[axis + 1 :]
        missing = images.new_zeros(*before, batch - count, *after)
        return model(torch.cat([images, missing], axis))[:count]

    return run


def _exported(path: Path) -> bool:
    """Whether a file is what `export` wrote there, by the digest beside it: not one that has taken its place since."""
    try:
        return path.exists() and described(path) is not None
    except ModelError:
        return False
