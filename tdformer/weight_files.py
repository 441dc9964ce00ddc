"""Files of weights: what is in one, and how ours are written.

Nothing in a file is run: pickles are read with `weights_only`, and an object in them that is no tensor becomes an
`Unread`.
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
from typing import BinaryIO, TypeGuard

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from .digest import DIGEST, described, of_tensors, unverified
from .errors import ModelError, first_line
from .options import Options

METADATA = "tdformer"
"""The safetensors metadata key of the model's options, as JSON."""
CARD = "card"
"""That of what else is known of the weights, as JSON; see `TDFormer.card`."""
AVERAGED = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
"""Where training checkpoints have their averaged weights, beside `model` or `state_dict`."""
WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
"""What DataParallel and torch.compile put before names."""


def read_weights(path: Path, verified: bool = False) -> dict[str, Tensor]:
    """The tensors in a file, by name. verified: it has been compared with its description. Raises ModelError for a
    file that would run code, is damaged (ours are compared with their digests) or holds no weights."""
    return read_file(path, verified).weights(str(path))


@dataclass
class File:
    """The contents of a file, the options and the card of a safetensors file of ours, and what was not read; see
    `pretrained.Report`."""

    contents: Mapping[str, object]
    options: str | None = None
    card: dict[str, object] | None = None
    unread: list[str] = field(default_factory=list)

    @property
    def model(self) -> Options | None:
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
        return weights_in(self.contents, self.averaged, where)


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


def _card(text: str, path: Path) -> dict[str, object] | None:
    card: object
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        card = text
    if card is not None and not isinstance(card, dict):
        raise ModelError(f"{path}: its model card is no JSON object; get it again")
    return card


class Unread:
    """What stands for an object that a checkpoint holds beside its weights. Nothing of it is imported or called."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_CONTAINERS: dict[str, Callable[..., object]] = {
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda *_: [],
}
"""What an `Unread` cannot stand for, since the weights-only unpickler puts items into it."""


def _checkpoint(path: Path) -> File:
    try:
        unread = _others(path)
        safe = torch.serialization.safe_globals([(_CONTAINERS.get(name, Unread), name) for name in unread])
        with warnings.catch_warnings(action="ignore"), safe:
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


def weights_in(contents: Mapping[str, object], averaged: str | None, where: str) -> dict[str, Tensor]:
    """The tensors by name, out of a training checkpoint and without the prefixes of who wraps a model. What an average
    does not have, such as statistics, is that of the weights beside it."""
    inside = (contents.get(key) for key in ("model", "state_dict"))
    given = _bare(next((one for one in inside if isinstance(one, Mapping)), contents if averaged is None else None))
    if averaged is not None:
        found = _bare(contents[averaged])
        if given and not given.keys() & found.keys():
            raise ModelError(
                f"{where}: its {averaged} has other names than its weights; save the one that is meant alone"
            )
        given = {key: found.get(key, value) for key, value in given.items()} or found
    weights = {key: value for key, value in given.items() if _plain(value)}
    other = next((key for key in given if key not in weights), None)
    if other is not None or not weights:
        there = f"{other!r} is no tensor of real numbers" if given else "it is empty"
        raise ModelError(f"{where}: holds no weights ({there}); give a state dict, alone or under model or state_dict")
    return weights


def _bare(named: object) -> dict[str, object]:
    """By the names that a model's own state dict has; of nothing, none."""
    return {WRAPPED.sub("", str(key)): value for key, value in named.items()} if isinstance(named, Mapping) else {}


def _tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values())


def _plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a dense tensor that has values."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_nested or value.is_meta:
        return False
    return not (value.is_quantized or value.is_complex())


def write(path: Path, tensors: Mapping[str, Tensor], options: Options, card: object = None) -> None:
    """A safetensors file of ours, which appears complete or not at all, with the same bytes for the same contents.
    options: of the model; card: see CARD."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = {METADATA: json.dumps(options)} | ({CARD: json.dumps(card)} if card else {})
    try:
        save_file(whole, temporary, said | {DIGEST: of_tensors(_covered(said), whole)})
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
