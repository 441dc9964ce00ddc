"""The model that a configuration asks for, fitted to its data, and weights put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tdformer
from pipelines.samples import Samples

from .config import Config
from .errors import RunError
from .samples import view


def build_model(config: Config, data: Samples) -> tdformer.TDFormer:
    """The configured model, with classes, channels and size taken from the data where the config leaves them open.

    Raises RunError when the config asks for what the data does not have.
    """
    channels, *size = data.shape
    if (seen_as := view(config, data)) is not None:
        size = list(seen_as.grid)
    seen: dict[str, Any] = {"num_classes": data.classes, "in_channels": channels, "image_size": size}
    options = seen | config.model.options()
    asked = options["image_size"]
    if isinstance(asked, int):
        options["image_size"] = asked = [asked, asked]
    for key, fits in (
        ("num_classes", options["num_classes"] >= data.classes),
        ("in_channels", options["in_channels"] == channels),
        ("image_size", list(asked) == size),
    ):
        if not fits:
            raise RunError(
                f"model.{key} is {options[key]}, the data in {config.data.folder} has {seen[key]}; set it null"
            )
    torch.manual_seed(config.seed)
    return tdformer.create_model(config.model.name, **options)


def example(model: tdformer.TDFormer, batch: int, device: str = "cpu") -> Tensor:
    """Zeros as the model is given: pictures `[B, C, H, W]`, or frames `[T, B, 2, H, W]` where it takes two channels."""
    steps = [model.time_steps] if model.config["in_channels"] == 2 else []
    return torch.zeros(*steps, batch, model.config["in_channels"], *model.config["image_size"], device=device)


def load_weights(model: tdformer.TDFormer, weights: dict[str, Tensor], where: Path) -> None:
    """Load a checkpoint's weights. Raises RunError when it is of another model, naming the first difference."""
    own = model.state_dict()
    odd = sorted(own.keys() ^ weights.keys()) or [k for k in own if own[k].shape != weights[k].shape]
    if odd:
        mine, theirs = ("nothing" if odd[0] not in d else f"shape {list(d[odd[0]].shape)}" for d in (own, weights))
        raise RunError(
            f"{where} is of another model: {odd[0]} is {theirs} there and {mine} here; use the config it was made with"
        )
    model.load_state_dict(weights)
