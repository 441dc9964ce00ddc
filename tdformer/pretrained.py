"""Weights from files: published backbones by their key names, and our own exports.

Nothing in a file is run: pickles are read with `weights_only`, and an object in them that is no tensor becomes an
`Unread`. A backbone's weights come with no feedback, so the mixer of every fed-back block, the widened half of the key
projection, is set to zero: before its first step the TDFormer computes the backbone's function (with the "concat"
mixer).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from .backbones import Published, families
from .digest import DIGEST, described, of_tensors, unverified
from .errors import ModelError, first_line
from .model import TDFormer
from .registry import create_model

METADATA = "tdformer"
"""The safetensors metadata key of the model's options, as JSON."""
CARD = "card"
"""That of what else is known of the weights, as JSON; see `TDFormer.card`."""
OURS = "tdformer"
"""What a report calls the family of weights with our names."""


@dataclass
class Report:
    """What became of each tensor: names of the model's that were loaded, of the file's that were skipped, and why, and
    of the model's that the file does not have and why that is right. unread: Python objects beside the weights, by the
    names of their classes and functions."""

    family: str
    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list, compare=False)


def load_pretrained(model: TDFormer, source: str | Path | Mapping[str, Any]) -> Report:
    """Load backbone or TDFormer weights into `model`, all or nothing.

    source: a `.pth` file or its contents, `{"model" | "state_dict": weights, ...}` or the weights alone, with the
    names of the published QKFormer, Spikformer or Spike-driven Transformer; or a `.safetensors` file of ours.
    BatchNorm statistics of one network go to every segment. A head for another number of classes stays as it is.
    Raises ModelError for a file that would run code or is damaged (ours are compared with their digests), another
    architecture, and missing or misshapen tensors.
    """
    where = "state dict" if isinstance(source, Mapping) else str(source)
    file = _File(source) if isinstance(source, Mapping) else _read(Path(source))
    weights = _weights(file.contents, where)
    published = _published(weights, model)
    own = model.state_dict()
    report = Report(OURS if published is None else model.backbone.family, unread=file.unread)
    values: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        name, reason = (key, None) if published is None else _translate(key, published)
        if published is None and ".control." in key and key not in own:
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
    """Write weights, `model.config`, `model.card` where there is one, and a digest of them as safetensors; the file
    appears complete or not at all, with the same bytes for the same model."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    said = {METADATA: json.dumps(model.config)} | ({CARD: json.dumps(model.card)} if model.card else {})
    try:
        save_file(tensors, temporary, said | {DIGEST: of_tensors(_covered(said), tensors)})
        with open(temporary, "rb+") as file:
            _sort_header(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _covered(said: Mapping[str, str]) -> str:
    """What of a header the digest is of, besides the tensors."""
    return said[METADATA] + said.get(CARD, "")


def _sort_header(file: BinaryIO) -> None:
    """Bring the metadata in a safetensors file, which are written in any order (0.8), into that of their names."""
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    file.seek(8)
    file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def is_saved(path: Path) -> bool:
    """Whether `save_pretrained` wrote a file, as its header says."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return METADATA in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def from_pretrained(path: str | Path) -> TDFormer:
    """The model that `save_pretrained` wrote, with its options and its card. Raises ModelError for any other file."""
    file = _read(Path(path))
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


def read_weights(path: Path, verified: bool = False) -> dict[str, Tensor]:
    """The tensors in a file, by name. verified: it has been compared with its description. Raises ModelError as
    `load_pretrained` does."""
    return _weights(_read(path, verified).contents, str(path))


@dataclass
class _File:
    """The contents of a file, the options and the card of a safetensors file of ours, and what was not read; see
    `Report`."""

    contents: Mapping[str, Any]
    options: str | None = None
    card: dict[str, Any] | None = None
    unread: list[str] = field(default_factory=list)


def _read(path: Path, verified: bool = False) -> _File:
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file, or no plain one; give a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return _safetensors(path, verified)
    if not verified:
        described(path)
    return _checkpoint(path)


def _safetensors(path: Path, verified: bool) -> _File:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors, said = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # safetensors and torch raise half a dozen kinds
        raise ModelError(f"{path}: is not a readable safetensors file ({first_line(error)}); get it again") from None
    options = said.get(METADATA)
    if options is not None and DIGEST not in said and not verified:
        unverified(path)
    if options is not None and said.get(DIGEST) not in (None, of_tensors(_covered(said), tensors)):
        raise ModelError(f"{path}: is damaged (its SHA-256 is not that of its header); get it again")
    return _File(tensors, options, _card(said.get(CARD, "null"), path) if options is not None else None)


def _card(text: str, path: Path) -> dict[str, Any] | None:
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        card = text
    if card is not None and not isinstance(card, dict):
        raise ModelError(f"{path}: its model card is no JSON object; get it again")
    return card


class Unread:
    """What stands for an object that a checkpoint holds beside its weights. Nothing of it is imported or called."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_CONTAINERS: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda *_: [],
}
"""What an `Unread` cannot stand for, since the weights-only unpickler puts items into it."""


def _checkpoint(path: Path) -> _File:
    try:
        unread = _others(path)
        safe: list[Any] = [(_CONTAINERS.get(name, Unread), name) for name in unread]
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(safe):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises almost anything for bytes that are not a checkpoint
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise ModelError(f"{path}: would run {asked[1]} when loaded, refused; save its weights alone") from None
        raise ModelError(f"{path}: is not a readable checkpoint ({first_line(error)}); get it again") from None
    if not isinstance(contents, Mapping):
        raise ModelError(f"{path}: holds a {type(contents).__name__}, not a dict of weights; save a state dict")
    return _File(contents, unread=unread)


def _others(path: Path) -> list[str]:
    """The names in a checkpoint's pickle that `weights_only` does not know; of one in the format before PyTorch 1.6, no
    zip, none. Raises an exception for a damaged zip: torch.load does not look at its checksums."""
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:  # they are never compressed
            raise ValueError("its parts exceed the file")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged (checksum)")
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))


def _weights(contents: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors by name, out of a training checkpoint and without the prefix of DataParallel."""
    inner = next((contents[k] for k in ("model", "state_dict") if isinstance(contents.get(k), Mapping)), contents)
    weights = {str(k).removeprefix("module."): v for k, v in inner.items()}
    other = next((k for k, v in weights.items() if not _plain(v)), None)
    if other is not None or not weights:
        found = f"{other!r} is no tensor of real numbers" if weights else "it is empty"
        raise ModelError(f"{where}: holds no weights ({found}); give a state dict, alone or under model or state_dict")
    return weights


def _plain(value: Any) -> bool:
    """Whether it is a dense tensor that has values."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested or value.is_meta:
        return False
    return not (value.is_quantized or value.is_complex())


def _published(weights: Mapping[str, Tensor], model: TDFormer) -> Published | None:
    """How the names of published weights are read; None: they are ours. Raises ModelError unless the model fits."""
    if any(k.startswith("backbone.") for k in weights):
        return None
    own = type(model.backbone)
    readers = {family: family.published for family in (own, *families()) if family.published is not None}
    for family, published in readers.items():
        if not published.known(weights):
            continue
        published.check(weights)
        if family is not own:
            raise ModelError(
                f"these are weights of {family.family} and {model.config['name']} is a {own.family}; choose its model"
            )
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
