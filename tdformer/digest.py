"""SHA-256 digests of exported files, over the weights and what is said of them: a damaged file is not read.

A safetensors file has one of its options and tensors in its header. The description that lies beside an exported file,
FILE.json, has one of itself and of the file's bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from .errors import ModelError, first_line
from .options import Options
from .registry import create_model

log = logging.getLogger(__name__)

DIGEST = "sha256"
"""The key of the digest, in a header and in a description."""
PROGRAMS = (".pt2", ".onnx")
"""The suffixes of files that hold a program for a fixed number of images, their description's `batch`."""


class Input(TypedDict, total=False):
    """How the data that a model was trained on are seen: the kind of samples and its shape (C, H, W), mean and std of
    each channel, what classes are called in words; and size, frames or crop_ratio of the view."""

    kind: str
    shape: list[int]
    mean: list[float]
    std: list[float]
    titles: dict[str, str]
    size: int | None
    frames: str
    crop_ratio: float


class Described(TypedDict, total=False):
    """What is said of weights in the description beside an exported file; of an earlier version's, a part of it."""

    model: Options
    config: dict[str, object]
    checkpoint: str
    step: int | None
    batch: int
    opset: int
    frames: bool | None
    classes: list[str] | None
    input: Input | None
    parameters: int
    dataset: str | None
    run: str | None
    averaged: bool | None
    accuracy: float | None
    config_sha256: str | None
    code: list[str] | None
    version: str
    licence: str


def of_tensors(options: str, tensors: Mapping[str, Tensor]) -> str:
    """The digest of a header's text and of dense tensors, by name."""
    digest = hashlib.sha256(options.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_file(path: Path, about: Mapping[str, object]) -> str:
    """The digest of a file and of its description, however that is spaced and sorted."""
    said = json.dumps({key: value for key, value in about.items() if key != DIGEST}, sort_keys=True)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(said.encode())).hexdigest()


def beside(path: Path) -> Path:
    """Where the description of an exported file lies."""
    return path.with_name(path.name + ".json")


def described(path: Path) -> Described | None:
    """The description beside an exported file; None where there is none, or one that is not ours.

    Its `model` is all options of the model, its `step` None where nothing is known of the training. Raises ModelError
    where it cannot be read or used, or the two are not what was exported. One of an earlier version has no digest: a
    line says so.
    """
    file = beside(path)
    if not file.is_file():
        return None
    try:
        about: Described = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read ({type(error).__name__}); export {path.name} again") from None
    said: object = about
    if not isinstance(said, dict) or not {"model", "config", "checkpoint", "step"} <= said.keys():
        return None
    if DIGEST not in said:
        unverified(path)
    elif said[DIGEST] != of_file(path, said):
        raise ModelError(f"{path} and {file.name} are not what was exported (SHA-256): one is damaged; export it again")
    step, batch = said["step"], said.get("batch", None if path.suffix in PROGRAMS else 1)
    if (
        not (step is None or (type(step) is int and step >= 0))
        or type(batch) is not int
        or batch < 1
        or not isinstance(said["config"], dict)
    ):
        raise ModelError(f"{file} says step {step!r:.40}, batch {batch!r:.40}; export {path.name} again")
    try:
        with torch.device("meta"):
            about["model"] = create_model(**about["model"]).config
    except Exception as error:  # options that somebody else wrote can be anything
        raise ModelError(
            f"{file}: its model options cannot be used ({first_line(error)}); export {path.name} again"
        ) from None
    return about


def unverified(path: Path) -> None:
    """Say, in one line, that a file of ours has no digest."""
    log.warning("warning: %s has no digest (an earlier version wrote it): what it holds is not verified", path)
