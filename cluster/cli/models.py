"""The models that there are, and published weights for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import config as configs
from ..config.schema import FIRST_WEIGHTS
from ..errors import RunError, disk_errors
from ..jobs.waiting import waits_here
from .arguments import model_names
from .pages import Group

group = Group("Models")


@group.add("A table of the models.")
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a model, for programs.")] = False,
) -> None:
    """The names that model.name takes: parameters, the input each was made for, and the family of its backbone."""
    waits_here("loading PyTorch")
    rows = _models()
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    words = [(r["name"], f"{r['parameters'] / 1e6:.2f} M", _size(r["input"]), r["family"]) for r in rows]
    words.insert(0, ("name", "parameters", "input", "family"))
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    for name, count, shape, family in words:
        print(f"{name:<{widths[0]}}  {count:>{widths[1]}}  {shape:<{widths[2]}}  {family}")


def _size(shape: list[int]) -> str:
    channels, height, width = shape
    return f"{height} x {width} x {channels}"


def _models() -> list[dict[str, Any]]:
    import torch

    import tdformer

    rows = []
    with torch.device("meta"):
        for name in tdformer.list_models():
            model = tdformer.create_model(name)
            shape = [model.config["in_channels"], *model.config["image_size"]]
            rows.append(
                {
                    "name": name,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "input": shape,
                    "classes": model.config["num_classes"],
                    "time_steps": model.time_steps,
                    "family": type(model.backbone).__name__,
                }
            )
    return rows


@group.add("Convert published weights.", "import")
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A published backbone's checkpoint.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The TDFormer to load it into, such as hst_10_768; `tdformer models`.",
            autocompletion=model_names,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The safetensors file to write.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options, such as leaky_proj_lif=true.")
    ] = None,
) -> None:
    """Convert published weights to a TDFormer's; what feedback adds starts at zero."""
    given = [o.partition("=")[0].strip() for o in overrides or ()]
    if "name" in given:
        raise RunError(f"name is what --model says, {model}; leave it out")
    if beginning := next((key for key in given if key in FIRST_WEIGHTS), None):
        raise RunError(f"{beginning} is no option of a model: training begins with it; leave it out")
    options = configs.load(None, [f"model.{o}" for o in overrides or ()]).model.options()
    if not file.is_file():
        raise RunError(f"{file}: no such file")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder to write {out.name} to")
    waits_here("loading PyTorch")
    import tdformer
    from tdformer.pretrained import is_saved

    if out.exists() and not is_saved(out):
        raise RunError(f"{out} is there and of no earlier import; name another file, or remove that one")
    made = tdformer.create_model(model, **options)
    report = tdformer.load_pretrained(made, file)
    with disk_errors(out):
        tdformer.save_pretrained(made, out)
    print(f"{out}: {report.family} weights, {len(report.loaded)} loaded")
    if report.unread:
        print(f"  not read, since they are no tensors: {', '.join(report.unread)}")
    for title, names in (("skipped", report.skipped), ("new", report.fresh)):
        for name, reason in names.items():
            print(f"  {title} {name}: {reason}")
