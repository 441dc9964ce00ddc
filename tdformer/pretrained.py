"""Weights of other models in ours: published backbones by their key names, and our own exports.

A backbone's weights come with no feedback, so what lets it through in every fed-back block, the widened half
of the key projection or the vector of the core, is set to zero: before its first step the TDFormer computes the
backbone's function (with the mixers "concat" and "processing").

Image size and time steps are in no tensor. BatchNorm's statistics of segment n are those of the n-th segment there was,
or of the last one. A head is kept row by row or begun anew, as published fine-tuning begins it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .backbones import Published, families
from .errors import ModelError, first_line
from .feedback import Control
from .model import TDFormer
from .registry import create_model
from .weight_files import File, read_file, write

OURS = "tdformer"
"""What a report calls the family of weights with our names."""
NEW_HEAD = 2e-5
"""The standard deviation of a new head's weights; its biases are 0. Published fine-tuning begins so."""
FEEDBACK = ("cm", "pm", "mixer")
"""Options that decide what the tensors of a fed-back block mean, and which there are."""


@dataclass
class Report:
    """What became of each tensor: names of the model's that were loaded, and of those that were adapted to it, how; of
    the file's that were skipped, and why; and of the model's that the file does not have and why that is right. unread:
    Python objects beside the weights, by the names of their classes and functions."""

    family: str
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list, compare=False)
    averaged: str | None = None


@dataclass(frozen=True)
class Head:
    """What a model's head is made of. rows: for each of its outputs the number of the file's, None for a new one; None
    for all: the same numbers where there are as many outputs, else all new. why: in a few words."""

    rows: Sequence[int | None] | None = None
    why: str = ""


def load_pretrained(model: TDFormer, source: str | Path | Mapping[str, object]) -> Report:
    """Load backbone or TDFormer weights into `model`, all or nothing.

    source: a `.pth` file or its contents, `{"model" | "state_dict": weights, ...}` or the weights alone, with the
    names of the published QKFormer, Spikformer or Spike-driven Transformer; or a `.safetensors` file, ours or with such
    names. Averaged weights are taken where there are some; see `weight_files.AVERAGED`.
    BatchNorm statistics of one network go to every segment. A head for another number of classes is begun anew: its
    weights normal with standard deviation 2e-5, its biases 0.
    Raises ModelError for a file that would run code or is damaged (ours are compared with their digests), another
    architecture, missing or misshapen tensors, and values that are not finite.
    """
    where = "state dict" if isinstance(source, Mapping) else str(source)
    file = File(source) if isinstance(source, Mapping) else read_file(Path(source))
    report = fit(model, file.weights(where), where, file.model)
    report.unread, report.averaged = file.unread, file.averaged
    return report


def fit(
    model: TDFormer,
    weights: Mapping[str, Tensor],
    where: str,
    origin: Mapping[str, object] | None = None,
    head: Head = Head(),
) -> Report:
    """Load weights by name into `model`, all or nothing; of one on meta nothing but the report is made.

    where: what messages call them. origin: the options of the model that they were trained in, where they are known:
    feedback of another kind, or that was never used, is left. Raises ModelError as `load_pretrained` does.
    """
    published = _published(weights, model)
    own = model.state_dict()
    gates = {id(module.gate()) for module in model.modules() if isinstance(module, Control)}
    closed = {
        name: f"feedback: the {'mixer' if name.endswith('.mix.weight') else 'core'} starts at zero"
        for name, parameter in model.named_parameters()
        if id(parameter) in gates
    }
    report = Report(OURS if published is None else model.backbone.family)
    other = None if origin is None else _other_feedback(origin, model.config)
    values: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name, reason = (key, None) if published is None else _translate(key, published)
        if published is None and ".control." in key:
            reason = "feedback that this model does not have" if key not in own else other
        value = None
        if not reason and name.startswith("head.") and name in own:
            value, reason = _of_head(key, tensor, own[name], head, where)
            if reason and value is not None:
                report.adapted[name], reason = reason, None
            elif reason:
                report.fresh[name] = reason
        if reason:
            report.skipped[key] = reason
            continue
        if name not in own and _learned(name) and model.config["neuron"] != "plif":
            raise ModelError(f"{where}: {key} is a learned time constant; create the model with neuron=plif")
        if name not in own:
            raise ModelError(
                f"{where}: {key} has no place in {model.config['name']} as configured; choose the model it is of"
            )
        values[name] = value = _fit(key, tensor, own[name], name, where) if value is None else value
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise ModelError(f"{where}: {key} has values that are not finite; get an earlier file of its training")
        if _statistics(name) and len(own[name]) != (there := len(tensor) if tensor.dim() == 2 else 1):
            report.adapted[name] = f"statistics of {there} segment{'s' * (there > 1)} for {len(own[name])}"
        report.loaded.append(name)
    fixed = not any(_learned(name) for name in values)
    feedback_only = () if model.backbone.published is None else model.backbone.published.ours
    for name in own.keys() - values.keys() - report.fresh.keys():
        if ".control." in name:
            report.fresh[name] = closed.get(name, "feedback")
        elif name in feedback_only:
            report.fresh[name] = "feedback"
        elif fixed and _learned(name):
            report.fresh[name] = "learnable time constant, the file's neurons have none"
        else:
            raise ModelError(f"{where}: nothing for the model's {name}; choose the model that the file was saved from")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
        for name in report.fresh:
            if name in closed:
                own[name].zero_()
            elif name.startswith("head."):
                _begin_head(own[name])
    return report


def save_pretrained(model: TDFormer, path: str | Path) -> None:
    """Write weights, `model.config`, `model.card` where there is one, and a digest of them as safetensors; the file
    appears complete or not at all, with the same bytes for the same model."""
    write(Path(path), model.state_dict(), model.config, model.card)


def from_pretrained(path: str | Path) -> TDFormer:
    """The model that `save_pretrained` wrote, with its options and its card. Raises ModelError for any other file."""
    file = read_file(Path(path))
    if file.options is None:
        raise ModelError(f"{path}: holds no options of a TDFormer; make such a file with `tdformer import`")
    try:
        model = create_model(**json.loads(file.options))
        model.card = file.card
    except Exception as error:  # options that somebody else wrote can be anything
        raise ModelError(
            f"{path}: its model options cannot be used ({first_line(error)}); write the file again"
        ) from None
    load_pretrained(model, file.contents)
    return model


def _published(weights: Mapping[str, Tensor], model: TDFormer) -> Published | None:
    """How the names of published weights are read; None: they are ours. Raises ModelError unless the model fits."""
    if any(k.startswith("backbone.") for k in weights):
        return None
    own = type(model.backbone)
    readers = {family: family.published for family in (own, *families()) if family.published is not None}
    for family, published in readers.items():
        if not published.known(weights):
            continue
        if family is not own:
            raise ModelError(
                f"these are weights of {family.family} and {model.config['name']} is a {own.family}; choose its model"
            )
        published.check(weights, model.backbone.sizes)
        return published
    raise ModelError(
        f"names such as {next(iter(weights))!r} are of no known backbone; give "
        f"{', '.join(published.of for published in readers.values())} or TDFormer weights"
    )


def _translate(key: str, published: Published) -> tuple[str, str | None]:
    """A published name -> our name, and why it is skipped, if it is; an unknown name is its own."""
    for pattern, reason in published.unused.items():
        if re.fullmatch(pattern, key):
            return key, reason
    return published.name(key) or key, None


def _learned(name: str) -> bool:
    """Whether a tensor of ours is the time constant of a PLIF neuron of the backbone."""
    return name.endswith(".w") and ".control." not in name


def _fit(key: str, tensor: Tensor, own: Tensor, name: str, where: str) -> Tensor:
    """The tensor in the model's shape: kernels of 1 written out, statistics repeated for the segments."""
    if _statistics(name):
        rows = tensor if tensor.dim() == 2 else tensor[None]
        if rows.dim() == 2 and rows.shape[1] == own.shape[1] and len(rows):
            return of_segments(rows, len(own))
    elif tensor.shape == own.shape[: tensor.dim()] and own.shape[tensor.dim() :].numel() == 1:
        return tensor.reshape(own.shape)
    raise ModelError(
        f"{where}: {key} is {list(tensor.shape)} and the model's {name} {list(own.shape)}; choose the model it is of"
    )


def of_segments(rows: Tensor, segments: int) -> Tensor:
    """BatchNorm's statistics `[N, C]` for another number of segments: of the n-th, or of the last one there is."""
    return rows[torch.arange(segments).clamp(max=len(rows) - 1)]


def _statistics(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def _other_feedback(origin: Mapping[str, object], options: Mapping[str, object]) -> str | None:
    """Why the tensors of feedback mean nothing in a model with these options, or None."""
    if origin.get("segments") == 1 != options["segments"]:
        return "feedback that was never used: it had one segment"
    differ = [k for k in FEEDBACK if origin.get(k, options[k]) != options[k]]
    there, here = (", ".join(f"{k}={o[k]}" for k in differ) for o in (origin, options))
    return f"feedback with {there:.80}, the model has {here}" if differ else None


def _of_head(key: str, tensor: Tensor, own: Tensor, head: Head, where: str) -> tuple[Tensor | None, str | None]:
    """The tensor for the model's head, and how it was adapted; or none, and why the head is new; or neither: it is
    taken as any other tensor."""
    if head.rows is None:
        differ = tensor.dim() == own.dim() and len(tensor) != len(own)
        return None, f"head for {len(tensor)} classes, the model has {len(own)}" if differ else None
    kept = [(i, row) for i, row in enumerate(head.rows) if row is not None]
    if not kept:
        return None, head.why
    if tensor.shape[1:] != own.shape[1:] or max(row for _, row in kept) >= len(tensor):
        raise ModelError(
            f"{where}: {key} is {list(tensor.shape)}, from which {list(own.shape)} cannot be taken by the names of "
            "classes; begin the head anew"
        )
    value = torch.empty(own.shape, dtype=own.dtype)
    _begin_head(value)
    here, there = zip(*kept, strict=True)
    value[list(here)] = tensor[list(there)]
    return value, head.why


def _begin_head(tensor: Tensor) -> None:
    """A head's weights `[classes, C]` or biases `[classes]`, as fine-tuning begins them."""
    if tensor.dim() > 1:
        nn.init.trunc_normal_(tensor, std=NEW_HEAD)
    else:
        nn.init.zeros_(tensor)
