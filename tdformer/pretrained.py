"""Weights from files: published backbones by their key names, and our own exports.

Nothing in a file is run: pickles are read with `weights_only`, and an object in them that is no tensor becomes an
`Unread`. A backbone's weights come with no feedback, so what lets it through in every fed-back block, the widened half
of the key projection or the vector of the core, is set to zero: before its first step the TDFormer computes the
backbone's function (with the mixers "concat" and "processing").

Image size and time steps are in no tensor. BatchNorm's statistics of segment n are those of the n-th segment there was,
or of the last one. A head is kept row by row or begun anew, as published fine-tuning begins it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .backbones import Published, families
from .digest import DIGEST, described, of_tensors, unverified
from .errors import ModelError, first_line
from .feedback import Control
from .model import TDFormer
from .registry import create_model

METADATA = "tdformer"
"""The safetensors metadata key of the model's options, as JSON."""
CARD = "card"
"""That of what else is known of the weights, as JSON; see `TDFormer.card`."""
OURS = "tdformer"
"""What a report calls the family of weights with our names."""
NEW_HEAD = 2e-5
"""The standard deviation of a new head's weights; its biases are 0. Published fine-tuning begins so."""
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
"""Where training checkpoints have their averaged weights, beside `model` or `state_dict`."""
WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
"""What DataParallel and torch.compile put before names."""
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


def load_pretrained(model: TDFormer, source: str | Path | Mapping[str, Any]) -> Report:
    """Load backbone or TDFormer weights into `model`, all or nothing.

    source: a `.pth` file or its contents, `{"model" | "state_dict": weights, ...}` or the weights alone, with the
    names of the published QKFormer, Spikformer or Spike-driven Transformer; or a `.safetensors` file, ours or with such
    names. Averaged weights are taken where there are some; see `AVERAGED`.
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
    origin: Mapping[str, Any] | None = None,
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


def read_weights(path: Path, verified: bool = False) -> dict[str, Tensor]:
    """The tensors in a file, by name. verified: it has been compared with its description. Raises ModelError as
    `load_pretrained` does."""
    return read_file(path, verified).weights(str(path))


@dataclass
class File:
    """The contents of a file, the options and the card of a safetensors file of ours, and what was not read; see
    `Report`."""

    contents: Mapping[str, Any]
    options: str | None = None
    card: dict[str, Any] | None = None
    unread: list[str] = field(default_factory=list)

    @property
    def model(self) -> dict[str, Any] | None:
        """The options, where they are said and can be read."""
        try:
            said = json.loads(self.options or "null")
        except (ValueError, RecursionError):
            return None
        return said if isinstance(said, dict) else None

    @property
    def averaged(self) -> str | None:
        """The key that its averaged weights are under, where it has some."""
        return next((key for key in AVERAGED if _tensors(self.contents.get(key))), None)

    def weights(self, where: str) -> dict[str, Tensor]:
        """The tensors by name, the averaged ones where it has some. Raises ModelError where it holds anything else as
        weights."""
        return _weights(self.contents, self.averaged, where)


def read_file(path: Path, verified: bool = False) -> File:
    """What is in a file of weights; see `read_weights`."""
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file, or no plain one; give a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return _safetensors(path, verified)
    if not verified:
        described(path)
    return _checkpoint(path)


def _safetensors(path: Path, verified: bool) -> File:
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
    return File(tensors, options, _card(said.get(CARD, "null"), path) if options is not None else None)


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


def _checkpoint(path: Path) -> File:
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
    return File(contents, unread=unread)


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


def _weights(contents: Mapping[str, Any], averaged: str | None, where: str) -> dict[str, Tensor]:
    """The tensors by name, out of a training checkpoint and without the prefixes of who wraps a model. What an average
    does not have, such as statistics, is that of the weights beside it."""
    inner = next((contents[k] for k in ("model", "state_dict") if isinstance(contents.get(k), Mapping)), None)
    if averaged is not None:
        found = _bare(contents[averaged])
        beside = found if inner is None else _bare(inner)
        if not beside.keys() & found.keys():
            raise ModelError(
                f"{where}: its {averaged} has other names than its weights; save the one that is meant alone"
            )
        weights = {key: found.get(key, value) for key, value in beside.items()}
    else:
        weights = _bare(contents if inner is None else inner)
    other = next((k for k, v in weights.items() if not _plain(v)), None)
    if other is not None or not weights:
        found_there = f"{other!r} is no tensor of real numbers" if weights else "it is empty"
        raise ModelError(
            f"{where}: holds no weights ({found_there}); give a state dict, alone or under model or state_dict"
        )
    return weights


def _bare(named: Mapping[Any, Any]) -> dict[str, Any]:
    """By the names that a model's own state dict has."""
    return {WRAPPED.sub("", str(key)): value for key, value in named.items()}


def _tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())


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


def _other_feedback(origin: Mapping[str, Any], options: Mapping[str, Any]) -> str | None:
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
