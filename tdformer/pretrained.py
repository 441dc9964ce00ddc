"""Weights from files: published backbones by their key names, and our own exports (safetensors).

Nothing in a file is run: pickles are read with `weights_only`, and one that asks for more is refused. A backbone's
weights come with no feedback, so the mixer of every fed-back block, the widened half of the key projection, is set
to zero: before its first step the TDFormer computes the backbone's function (with the "concat" mixer).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from .backbones import SDT, QKFormer, Spikformer
from .errors import ModelError
from .model import TDFormer
from .registry import create_model

METADATA = "tdformer"
"""The safetensors metadata key of the model's options, as JSON."""


@dataclass
class Report:
    """What became of each tensor: names of the model's that were loaded, of the file's that were skipped, and why, and
    of the model's that the file does not have and why that is right."""

    family: str
    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)


def load_pretrained(model: TDFormer, source: str | Path | Mapping[str, Any]) -> Report:
    """Load backbone or TDFormer weights into `model`, all or nothing.

    source: a `.pth` file or its contents, `{"model" | "state_dict": weights, ...}` or the weights alone, with the
    names of the published QKFormer, Spikformer or Spike-driven Transformer; or a `.safetensors` file of ours.
    BatchNorm statistics of one network go to every segment. A head for another number of classes stays as it is.
    Raises ModelError for a file that would run code or is damaged, another architecture, and missing or misshapen
    tensors.
    """
    where = "state dict" if isinstance(source, Mapping) else str(source)
    weights = _weights(source if isinstance(source, Mapping) else _read(Path(source))[0], where)
    family = _file_family(weights, model)
    own = model.state_dict()
    report = Report(family)
    values: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name, reason = (key, "") if family == "tdformer" else _translate(key, family)
        if not reason and family == "tdformer" and ".control." in key and key not in own:
            reason = "feedback that this model does not have"
        if not reason and name.startswith("head.") and name in own and tensor.shape != own[name].shape:
            reason = f"head for {len(tensor)} classes, the model has {len(own[name])}"
            report.fresh[name] = reason
        if reason:
            report.skipped[key] = reason
            continue
        if name not in own:
            raise ModelError(
                f"{where}: {key} has no place in {model.config['name']} as configured; choose the model it is of"
            )
        values[name] = _fit(key, tensor, own[name], name, where)
        report.loaded.append(name)
    for name in own.keys() - values.keys() - report.fresh.keys():
        if ".control." in name:
            report.fresh[name] = "feedback: the mixer starts at zero" if name.endswith(".mix.weight") else "feedback"
        elif name.endswith(".w"):
            report.fresh[name] = "learnable time constant, the file's neurons have none"
        else:
            raise ModelError(f"{where}: nothing for the model's {name}; choose the model that the file was saved from")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
        for name in report.fresh:
            if name.endswith(".control.mix.weight"):
                own[name].zero_()
    return report


def save_pretrained(model: TDFormer, path: str | Path) -> None:
    """Write weights and `model.config` as safetensors; the file appears complete or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    try:
        save_file(tensors, temporary, {METADATA: json.dumps(model.config)})
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_saved(path: Path) -> bool:
    """Whether `save_pretrained` wrote a file, as its header says."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return METADATA in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def from_pretrained(path: str | Path) -> TDFormer:
    """The model that `save_pretrained` wrote, with its options. Raises ModelError for any other file."""
    weights, metadata = _read(Path(path))
    if METADATA not in metadata:
        raise ModelError(f"{path}: holds no options of a TDFormer; make such a file with `tdformer import`")
    try:
        model = create_model(**json.loads(metadata[METADATA]))
    except (TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: its model options cannot be used ({error}); write the file again") from None
    load_pretrained(model, weights)
    return model


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The contents of a file and, of safetensors, its metadata."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (safetensors.SafetensorError, OSError) as error:
            raise ModelError(f"{path}: is not a readable safetensors file ({_line(error)}); get it again") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the training options beside published weights
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost anything for bytes that are not a checkpoint
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise ModelError(f"{path}: would run {asked[1]} when loaded, refused; save its weights alone") from None
        raise ModelError(f"{path}: is not a readable checkpoint ({_line(error)}); get it again") from None
    if not isinstance(contents, Mapping):
        raise ModelError(f"{path}: holds a {type(contents).__name__}, not a dict of weights; save a state dict")
    return contents, {}


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _weights(contents: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors by name, out of a training checkpoint and without the prefix of DataParallel."""
    inner = next((contents[k] for k in ("model", "state_dict") if isinstance(contents.get(k), Mapping)), contents)
    weights = {str(k).removeprefix("module."): v for k, v in inner.items()}
    other = next((k for k, v in weights.items() if not isinstance(v, Tensor)), None)
    if other is not None or not weights:
        found = f"{other!r} is no tensor" if weights else "it is empty"
        raise ModelError(f"{where}: holds no weights ({found}); give a state dict, alone or under model or state_dict")
    return weights


def _file_family(weights: Mapping[str, Tensor], model: TDFormer) -> str:
    """Whose names these are: tdformer (ours), qkformer, spikformer or sdt. Raises ModelError unless the model fits."""
    expected = {QKFormer: "qkformer", SDT: "sdt", Spikformer: "spikformer"}[type(model.backbone)]
    if any(k.startswith("backbone.") for k in weights):
        return "tdformer"
    if any(k.startswith("patch_embed1.") for k in weights):
        found = "qkformer"
    elif not any(k.startswith("patch_embed.") for k in weights):
        raise ModelError(
            f"names such as {next(iter(weights))!r} are of no known backbone; give QKFormer, Spikformer, "
            "Spike-driven Transformer or TDFormer weights"
        )
    else:
        found = "sdt" if any(".talking_heads." in k for k in weights) else "spikformer"
    if found != expected:
        raise ModelError(f"these are weights of {found} and {model.config['name']} is a {expected}; choose its model")
    return found


_UNUSED = [
    (re.compile(r".*\.num_batches_tracked"), "a counter that nothing reads"),
    (re.compile(r"block\.\d+\.norm[12]\..*|norm\..*|pos_embed"), "never used by the published code"),
    (re.compile(r"block\.\d+\.attn\.talking_heads\..*"), "never used by the published code"),
]
_LAYER = {"conv": "conv", "linear": "conv", "bn": "norm"}


def _translate(key: str, family: str) -> tuple[str, str]:
    """A published name -> (our name, "") or ("", why it is skipped); an unknown name is its own."""
    for pattern, reason in _UNUSED:
        if pattern.fullmatch(key):
            return "", reason
    # QKFormer's embeddings end in "proj3_conv.weight", those of the others in "proj_conv3.weight".
    if m := re.fullmatch(r"patch_embed(\d)\.proj(_res|\d?)_(conv|bn)\.(\w+)", key):
        stage, unit = int(m[1]) - 1, m[2] or "0"
        if unit == "_res":
            part = "shortcut"
        else:  # in the later stages the two units are called 3 (none, for events) and 4
            part = f"units.{unit if stage == 0 else {'0': 0, '3': 0, '4': 1}.get(unit, unit)}"
        return f"backbone.embeds.{stage}.{part}.current.{_LAYER[m[3]]}.{m[4]}", ""
    current = "" if family == "sdt" else ".current"
    if m := re.fullmatch(r"patch_embed\.(proj|rpe)_(conv|bn)(\d?)\.(\w+)", key):
        units = "currents" if family == "sdt" else "units"
        part = "position" if m[1] == "rpe" else f"{units}.{m[3] or 0}"
        return f"backbone.stem.{part}{current}.{_LAYER[m[2]]}.{m[4]}", ""
    if m := re.fullmatch(r"(stage\d|block)\.(\d+)\.(tssa|ssa|attn|mlp)\.([a-z]+\d?)_(conv|linear|bn)\.(\w+)", key):
        stem = f"stages.{int(m[1][5:]) - 1}" if m[1] != "block" else "blocks"
        branch = "mlp" if m[3] == "mlp" else "attention"
        unit = m[4].replace("mlp", "fc")
        inside = ".current" if unit in ("q", "k", "v") else current
        return f"backbone.{stem}.{m[2]}.{branch}.{unit}{inside}.{_LAYER[m[5]]}.{m[6]}", ""
    return key, ""


def _fit(key: str, tensor: Tensor, own: Tensor, name: str, where: str) -> Tensor:
    """The tensor in the model's shape: kernels of 1 written out, statistics repeated for the segments."""
    if name.endswith(("running_mean", "running_var")):
        rows = tensor if tensor.dim() == 2 else tensor[None]
        if rows.dim() == 2 and rows.shape[1] == own.shape[1] and len(rows) <= len(own):
            return torch.cat([rows, rows[-1:].expand(len(own) - len(rows), -1)])
    elif tensor.shape == own.shape[: tensor.dim()] and own.shape[tensor.dim() :].numel() == 1:
        return tensor.reshape(own.shape)
    raise ModelError(
        f"{where}: {key} is {list(tensor.shape)} and the model's {name} {list(own.shape)}; choose the model it is of"
    )
