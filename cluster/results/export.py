"""A trained model as one file for others to use, and its evaluation.

MODEL.safetensors   weights, with the model's options in the header: `tdformer.from_pretrained`
MODEL.pt            a plain state dict, for torch.load(weights_only=True)
MODEL.pt2           a torch.export program of plain PyTorch operators, BatchNorm folded: it needs no tdformer
MODEL.onnx          the same as an ONNX graph, for other runtimes: see `onnx_graph`

Beside each lies MODEL.SUFFIX.json: the model's options, the run's configuration, the checkpoint, what `card` knows of
it, and a SHA-256 of all that and of the file; and MODEL.SUFFIX.md, to read. The same checkpoint gives the same bytes.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import tdformer
from pipelines import disk
from tdformer.digest import DIGEST, PROGRAMS, Described, beside, described, of_file
from tdformer.errors import ModelError
from tdformer.norm import fold

from ..build.model import example, restored
from ..build.setup import Setup
from ..config import Config, check_commands, flat, named
from ..config.layers import merged, of_override
from ..config.load import take_given
from ..config.plugins import name_of
from ..errors import RunError, disk_errors
from ..run.records import write_atomic
from ..run.weights import Source, Trained, located, read
from ..train.evaluate import class_numbers, computing, evaluate
from ..train.tally import Tally
from . import onnx_graph, undescribed
from .card import facts, page
from .exported import Exported, check_plugins

PAGE, OWN = "page_sha256", "description_sha256"
"""The keys of two more digests in the description beside an exported file: of the model card there, and of the rest of
the description. By them a later export knows what one that was killed has left."""


def export(source: str | Path, out: Path, batch: int = 1, overrides: Sequence[str] = ()) -> str:
    """Write the weights of RUN (its newest good checkpoint), RUN@STEP, one checkpoint or an exported file to `out`,
    whose suffix chooses the format; returns a line that says what was written. The averaged weights where there are
    some.

    batch: images that a .pt2 or .onnx program takes at once. overrides: the run's plugins, again; the model and data
    of weights that nobody has described. An earlier export is replaced, any other file is not. Raises RunError for
    that, another suffix, or a checkpoint that is damaged.
    """
    if out.suffix not in WRITERS:
        raise RunError(f"{out}: the format follows the name; end it with one of {', '.join(WRITERS)}")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder to write {out.name} to")
    where = located(source)
    trained, config = _found(where, overrides)
    assert trained.options is not None
    model = restored(trained.options, trained.weights, where.path)
    model.frames = trained.frames
    model.card = known = facts(model, trained, config)
    settled = flat(config) | {"plugins": [name_of(plugin) for plugin in config.plugins]}
    about: Described = {"model": trained.options, "config": settled, "checkpoint": str(where.path), **known}
    about |= {} if trained.frames is None else {"frames": trained.frames}
    about |= {"batch": batch} if out.suffix in PROGRAMS else {}
    about |= {"opset": onnx_graph.OPSET} if WRITERS[out.suffix] is _graph else {}
    text = page(out.name, about | {"model": model.config}).encode(errors="replace")
    said = {**about, PAGE: hashlib.sha256(text).hexdigest()}
    said[OWN] = _of_description(said)
    with disk_errors(out), disk.whole(out, out.suffix) as file:
        WRITERS[out.suffix](model, batch, file)
        said[DIGEST] = of_file(file, said)
        _check_places(out, file, text)
    write_atomic(_page(out), text)
    write_atomic(beside(out), (json.dumps(said, indent=1) + "\n").encode())
    of = where.run or where.path if trained.step is None else f"step {trained.step} of {where.run or where.path}"
    return f"{out}: {of}, {out.stat().st_size / 2**20:.1f} MiB"


def _found(where: Source, overrides: Sequence[str]) -> tuple[Trained, Config]:
    """The weights that are exported, and the configuration of their run or what stands for it."""
    take_given(merged(map(of_override, overrides)), overrides)  # what a file describes may be of a plugin
    try:
        trained = read(where)
    except ModelError:
        check_plugins(where.path, overrides)
        raise
    alone, nameless, given = trained.settings is None, trained.options is None, named(overrides)
    for key in (key for key in given if key != "plugins"):
        if not (alone and key in undescribed.DATA) and not (nameless and key.startswith("model.")):
            raise RunError(f"{key} changes nothing in an export; leave it out")
    if alone:
        trained = undescribed.told(trained, overrides)
    config = trained.config(overrides)
    if alone and {"data.dataset", "data.root"} & {*given}:
        trained = undescribed.of_shards(trained, config)
    assert trained.settings is not None  # or that would have raised
    check_commands(config, trained.settings, overrides, ["plugins"])
    return trained, config


def _options(model: tdformer.TDFormer, batch: int, file: Path) -> None:
    tdformer.save_pretrained(model, file)


def _weights(model: tdformer.TDFormer, batch: int, file: Path) -> None:
    with file.open("wb") as stream:  # of a path, its name would be in the file
        torch.save(model.state_dict(), stream)


def _program(model: tdformer.TDFormer, batch: int, file: Path) -> None:
    with file.open("wb") as stream:
        torch.export.save(program(model, batch), stream)


def _graph(model: tdformer.TDFormer, batch: int, file: Path) -> None:
    onnx_graph.write(program(model, batch), model.card or {}, file)


WRITERS = {".safetensors": _options, ".pt": _weights, ".pt2": _program, ".onnx": _graph}
"""What writes a model to a file, by its suffix; a program takes `batch` images at once."""


def program(model: tdformer.TDFormer, batch: int) -> torch.export.ExportedProgram:
    """The evaluation of a model as a graph of plain PyTorch operators, for `batch` images or as many frames: in one
    region without autocast, so that its numbers are the same wherever it runs, and without notes on lines of code."""
    model = fold(model.eval())
    inside = model.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return inside(images)

    model.forward = forward  # type: ignore[method-assign]
    before = os.environ.get("TDFORMER_KERNELS")
    os.environ["TDFORMER_KERNELS"] = "reference"
    try:
        with torch.no_grad():
            exported = torch.export.export(model, (example(model, batch),), strict=False)
    finally:
        if before is None:
            del os.environ["TDFORMER_KERNELS"]
        else:
            os.environ["TDFORMER_KERNELS"] = before
    for part in exported.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
                node.meta.pop(note, None)
    return exported


def evaluate_export(path: Path, overrides: Sequence[str] = (), tally: Tally | None = None) -> dict[str, object]:
    """Evaluate a file that `export` wrote on the test set of the run that it came from. tally: see `evaluate_run`.
    Raises RunError or ModelError for one that is damaged."""
    found = Exported.read(path, overrides)
    setup = Setup.to_evaluate(found.config)
    data = setup.samples
    numbers = class_numbers(found.about.get("classes"), data, path)
    model, batch = found.model(setup)
    device = torch.device("cpu")
    tally = Tally() if tally is None else tally
    tally.names = list(found.about.get("classes") or data.class_names)
    with computing(found.config, device):
        result = evaluate(
            model, data, device, batch, found.config.data.workers, view=setup.view, numbers=numbers, tally=tally
        )
    return {"file": str(path), "step": found.about["step"], "samples": len(data), **result, **tally.row()}


def _page(path: Path) -> Path:
    """Where the model card of an exported file lies."""
    return path.with_name(path.name + ".md")


def _check_places(out: Path, made: Path, text: bytes) -> None:
    """Raises RunError where something is in the way that is not what an export left there, by the digests beside it,
    nor what this one will write (`made`, and `text` as the card): one that was killed has left a part of it."""
    try:
        about = described(out) if out.exists() else None
    except ModelError:
        about = None
    whole, page = about is not None, _page(out)
    kept: Mapping[str, object] = about or _description(beside(out)) or {}
    ours = {
        out: whole or (out.is_file() and filecmp.cmp(out, made, shallow=False)),
        beside(out): bool(kept),
        page: page.is_file() and _digest(page) in (kept.get(PAGE), hashlib.sha256(text).hexdigest()),
    }
    theirs = next((place for place, so in ours.items() if place.exists() and not so), None)
    if theirs is not None:
        raise RunError(f"{theirs} is there, and not as an export left it; name another file, or remove that one")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_description(about: Mapping[str, object]) -> str:
    said = {key: value for key, value in about.items() if key not in (OWN, DIGEST)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _description(path: Path) -> dict[str, object] | None:
    """A description as an export left it, whatever lies beside it."""
    try:
        about = json.loads(path.read_bytes())
        return about if about[OWN] == _of_description(about) else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
