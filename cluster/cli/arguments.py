"""What several commands take, and how a shell completes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from ..errors import RunError


def recipe_names(incomplete: str) -> list[str]:
    """Recipes that begin so; without one, a shell goes on with file names."""
    return [name for name in configs.recipes() if name.startswith(incomplete)]


def setting_keys() -> list[str]:
    return list(configs.flat(configs.Config()))


def settings(incomplete: str) -> list[str]:
    """Settings that begin so. Of a single one also with its default: a shell that has two to choose from completes what
    both begin with, and adds no space after the `=`."""
    defaults = configs.flat(configs.Config())
    keys = [key for key in defaults if key.startswith(incomplete)]
    return [f"{key}=" for key in keys] + [f"{key}={configs.show(defaults[key])}" for key in keys if len(keys) == 1]


def model_names(incomplete: str) -> list[str]:
    import tdformer

    return [name for name in tdformer.list_models() if name.startswith(incomplete)]


def gpu_names(incomplete: str) -> list[str]:
    from ..plan.chips import chips

    return [name for name in chips() if name.startswith(incomplete)]


def data_sets(incomplete: str) -> list[str]:
    from pipelines.raw import catalog

    return [name for name in catalog.DATASETS.names() if name.startswith(incomplete)]


def _first(what: str, example: str) -> Callable[[typer.Context, Path | None], Path | None]:
    """A callback of an argument that raises RunError for a setting in its place."""

    def check(ctx: typer.Context, path: Path | None) -> Path | None:
        if path is not None and "=" in str(path) and not path.exists():
            raise RunError(f"{path} is a setting, and {what} comes first: tdformer {ctx.command.name} {example} {path}")
        return path

    return check


config_first, run_first = _first("the configuration", "quickstart"), _first("the run", "runs/quickstart")

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file, or a recipe such as quickstart.",
        autocompletion=recipe_names,
        callback=config_first,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, such as train.epochs=2.", autocompletion=settings),
]
RunPath = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.", callback=run_first),
]
Site = Annotated[Path | None, typer.Option(metavar="FILE", help="A YAML file with the keys of the section site.")]


def count(text: str, least: int = 1) -> object:
    """An option that is a number."""
    return typer.Option(min=least, metavar="N", help=text)
