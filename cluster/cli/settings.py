"""Looking at configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from .arguments import Overrides, recipe_names
from .pages import Group

group = Group("Settings")
config = group.below("config", "Every setting of a configuration.", "Look at configurations.")


@config.add("Print every setting.")
def show(
    # Not a Path, which would make one slash of two in a setting with a URL.
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="Without one: the defaults.", autocompletion=recipe_names)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print every setting of a configuration, as YAML."""
    given = list(overrides or ())
    if config is not None and "=" in config and not Path(config).exists():
        given.insert(0, config)
        config = None
    print(configs.to_yaml(configs.load(config, given)), end="")
