"""The models that there are, and published weights for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from .. import config as configs
from ..config.schema import FIRST_WEIGHTS
from ..errors import RunError, disk_errors
from ..jobs.waiting import waits_here
from .arguments import model_names
from .pages import Group

if TYPE_CHECKING:
    from tdformer import TDFormer

group = Group("Models")


class Row(TypedDict):
    """Of a model, as `--json` has it."""

    name: str
    parameters: int
    gflop: float | None
    input: list[int]
    classes: int
    time_steps: int
    family: str
    options: dict[str, object]


@group.add("A table of the models.")
def models(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="plugins, whose models are there too.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a model, for programs.")] = False,
) -> None:
    """The names that model.name takes: parameters, GFLOP of a forward pass of one image at the model's own size and
    time steps (2 a multiply-add), its input, its family, and the options of its size and its family's own with the
    values that the name has."""
    if other := next((key for key in configs.named(overrides or ()) if key != "plugins"), None):
        raise RunError(f"{other} changes nothing in this table, which has the models' own values; leave it out")
    waits_here("loading PyTorch")
    configs.load(None, overrides or ())
    rows = _models()
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    words = [
        (
            *(row["name"], f"{row['parameters'] / 1e6:.2f} M", _shown(row["gflop"]), _input(row["input"])),
            *(str(row["time_steps"]), row["family"]),
            " ".join(f"{key}={configs.show(value)}".replace(" ", "") for key, value in row["options"].items()),
        )
        for row in rows
    ]
    words.insert(0, ("name", "parameters", "GFLOP", "input", "T", "family", "options"))
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    for name, count, work, *rest in words:
        right = (word.rjust(width) for word, width in zip((count, work), widths[1:], strict=False))
        left = (word.ljust(width) for word, width in zip(rest, widths[3:], strict=True))
        print("  ".join([name.ljust(widths[0]), *right, *left]).rstrip())


def _shown(gflop: float | None) -> str:
    return "-" if gflop is None else f"{gflop:.2f}"


def _input(shape: list[int]) -> str:
    channels, height, width = shape
    return f"{height} x {width} x {channels}"


def _models() -> list[Row]:
    import torch

    import tdformer
    from tdformer.backbones.size import OPTIONS

    rows: list[Row] = []
    with torch.device("meta"):
        for name in tdformer.list_models():
            model = tdformer.create_model(name)
            shape = [model.config["in_channels"], *model.config["image_size"]]
            own = [*OPTIONS, *type(model.backbone).options]
            rows.append(
                {
                    "name": name,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "gflop": _gflop(model),
                    "input": shape,
                    "classes": model.config["num_classes"],
                    "time_steps": model.time_steps,
                    "family": type(model.backbone).__name__,
                    "options": {key: model.config[key] for key in own if model.config[key] is not None},
                }
            )
    return rows


def _gflop(model: TDFormer) -> float | None:
    """Of a pass of one image; None: a backbone from outside may not run on the meta device."""
    from tdformer.measure import measure_evaluation

    from ..build.model import example

    try:
        return measure_evaluation(model, example(model, 1, "meta")).flops / 1e9
    except RuntimeError:
        return None


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
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Options, such as leaky_proj_lif=true; and plugins."),
    ] = None,
) -> None:
    """Convert published weights to a TDFormer's; what feedback adds starts at zero."""
    given = [o.partition("=")[0].strip() for o in overrides or ()]
    if "name" in given:
        raise RunError(f"name is what --model says, {model}; leave it out")
    if beginning := next((key for key in given if key in FIRST_WEIGHTS), None):
        raise RunError(f"{beginning} is no option of a model: training begins with it; leave it out")
    words = [o if key == "plugins" else f"model.{o}" for key, o in zip(given, overrides or (), strict=True)]
    options = configs.load(None, words).model.options()
    if not file.is_file():
        raise RunError(f"{file}: no such file")
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder to write {out.name} to")
    waits_here("loading PyTorch")
    import tdformer
    from tdformer.weight_files import is_saved

    if out.exists() and not is_saved(out):
        raise RunError(f"{out} is there and of no earlier import; name another file, or remove that one")
    made = tdformer.create_model(model, **options)
    report = tdformer.load_pretrained(made, file)
    with disk_errors(out):
        tdformer.save_pretrained(made, out)
    print(f"{out}: {report.family} weights, {len(report.loaded)} loaded")
    if report.averaged:
        print(f"  the averaged ones, {report.averaged}")
    if report.unread:
        print(f"  not read, since they are no tensors: {', '.join(report.unread)}")
    for title, names in (("skipped", report.skipped), ("new", report.fresh)):
        for name, reason in names.items():
            print(f"  {title} {name}: {reason}")
