"""The model that a configuration asks for, fitted to its data, and weights put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import tdformer
from pipelines.samples import Samples
from tdformer.options import Options
from tdformer.pretrained import of_segments

from ..config import Config
from ..errors import RunError
from .data import view


def build_model(config: Config, data: Samples | None) -> tdformer.TDFormer:
    """The configured model, with classes, channels and size taken from the data where the config leaves them open, or,
    where nothing is known of the data, None, the model's own.

    Raises RunError when the config asks for what the data does not have.
    """
    options = config.model.options()
    if data is not None:
        options = _fitted({"num_classes": data.classes} | options, config, data)
    torch.manual_seed(config.seed)
    model = tdformer.create_model(config.model.name, **options)
    model.frames = None if data is None else data.kind.frames
    model.freeze(config.train.freeze)
    return model


def outline(config: Config, data: Samples | None) -> tdformer.TDFormer:
    """The same on meta: its shapes without its numbers."""
    with torch.device("meta"):
        return build_model(config, data)


def restored(options: Options, weights: Mapping[str, Tensor], where: Path) -> tdformer.TDFormer:
    """The model that trained weights are of, as `options` made it. Raises RunError where they do not fit."""
    model = tdformer.create_model(**options)
    load_weights(model, weights, where)
    return model


def trained_model(
    options: Options, weights: Mapping[str, Tensor], config: Config, data: Samples, where: Path
) -> tdformer.TDFormer:
    """The model of trained weights in evaluation mode, made with `options` for pictures of the size of `data`.

    A segment that was not trained has the BatchNorm statistics of the last one that was. Raises RunError where weights,
    options and data do not fit.
    """
    model = tdformer.create_model(**_fitted(options, config, data, "evaluate it on data of its own kind"))
    rows = {name: len(buffer) for name, buffer in model.named_buffers()}
    kept = {k: of_segments(v, rows[k]) if k in rows else v for k, v in weights.items()}
    load_weights(model, kept, where)
    return model.eval()


def _fitted(options: Options, config: Config, data: Samples, remedy: str = "set it null") -> Options:
    """`options` with the channels and the size of the data where the config leaves them open. Raises RunError."""
    channels, *size = data.shape
    if (seen_as := view(config, data)) is not None:
        size = list(seen_as.grid)
    asked = size if config.model.image_size is None else config.model.image_size
    square = [asked, asked] if isinstance(asked, int) else list(asked)
    options = {"in_channels": channels, **options, "image_size": square}
    for key, has, fits in (
        ("num_classes", data.classes, options["num_classes"] >= data.classes),
        ("in_channels", channels, options["in_channels"] == channels),
        ("image_size", size, square == size),
    ):
        if not fits:
            mend = "set it null" if key == "image_size" else remedy
            raise RunError(f"model.{key} is {options[key]}, the data in {config.data.folder} has {has}; {mend}")
    return options


def example(model: tdformer.TDFormer, batch: int, device: str = "cpu") -> Tensor:
    """Zeros as the model is given: pictures `[B, C, H, W]`, or frames `[T, B, C, H, W]`. Where nobody has said what its
    data are (checkpoints of earlier versions), two channels are those of events."""
    frames = model.config["in_channels"] == 2 if model.frames is None else model.frames
    steps = [model.time_steps] if frames else []
    return torch.zeros(*steps, batch, model.config["in_channels"], *model.config["image_size"], device=device)


def load_weights(model: tdformer.TDFormer, weights: Mapping[str, Tensor], where: Path) -> None:
    """Load a checkpoint's weights. Raises RunError when it is of another model, naming the first difference."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [k for k in own if own[k].shape != weights[k].shape]
    if odd:
        mine, theirs = ("nothing" if odd[0] not in d else f"shape {list(d[odd[0]].shape)}" for d in (own, weights))
        raise RunError(
            f"{where} is of another model: {odd[0]} is {theirs} there and {mine} here; use the config it was made with"
        )
    model.load_state_dict(weights)
