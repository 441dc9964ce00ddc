"""Looking at configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import config as configs
from ..errors import RunError
from .arguments import Overrides, count, recipe_names
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
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Also what is derived: from the model, the batch, the shards.")
    ] = False,
    processes: Annotated[int | None, count("With --resolved: for so many. [default: one a GPU, or 1]")] = None,
) -> None:
    """Print every setting of a configuration, as YAML."""
    if processes and not resolved:
        raise RunError("--processes is of what is derived; add --resolved, or leave it out")
    given = list(overrides or ())
    if config is not None and "=" in config and not Path(config).exists():
        given.insert(0, config)
        config = None
    asked = configs.load(config, given)
    if resolved:
        from .resolved import resolved as derived

        print(derived(asked, processes), end="")
    else:
        print(configs.to_yaml(asked), end="")
