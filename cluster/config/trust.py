"""What a stored configuration may not do unasked: it can be a stranger's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.remote import is_command

from ..errors import RunError
from .layers import named
from .schema import Config, flat
from .words import show

COMMANDS = ("plugins", "data.root", "site.setup", "site.sbatch", "site.srun", "site.python")
"""Settings that can hold commands, or name code; data.root where it is `pipe:`."""


def check_commands(
    config: Config, where: Path, overrides: Sequence[str], keys: Sequence[str] = COMMANDS, site: Path | None = None
) -> None:
    """Raises RunError where `config`, which was stored in `where`, has a command that neither `overrides` nor the file
    `site` gives: what is stored can be a stranger's, and is not run because it is there."""
    settings, given = flat(config), named(overrides, site)
    for key in keys:
        value = settings[key]
        if value and key not in given and (key != "data.root" or is_command(str(value))):
            raise RunError(
                f"{where} has a stored command, {key}={show(value)}, which is only run where it is given again"
                f": look at it, and write {key}=... on the command line"
            )
