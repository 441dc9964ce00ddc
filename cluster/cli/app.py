"""The `tdformer` command. Heavy imports wait until a command needs them, so that help and errors come at once."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from pipelines.errors import too_many_files

from ..errors import NO_SPACE, NOT_ALLOWED, RunError, no_memory, user_errors
from . import data, energy, figures, jobs, models, robustness, runs, scale, settings
from .pages import Contents

app = typer.Typer(
    cls=Contents,
    help="Train and evaluate TDFormer. Settings are given as key=value; `tdformer config show` lists them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    # Its own least is 50 columns, which a narrower terminal breaks anywhere.
    context_settings={
        "terminal_width": min(shutil.get_terminal_size().columns, 80) - 2,
        "help_option_names": ["-h", "--help"],
    },
)
for part in (runs, jobs, scale, figures, robustness, energy, data, models, settings):
    app.add_typer(part.group)


def _version(asked: bool) -> None:
    if not asked:
        return
    from ..run.provenance import revision

    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "(not installed)"

    code = revision()
    changed = ", changed" if code.get("dirty") else ""
    commit = f"commit {commit[:12]}{changed}; " if (commit := code.get("commit")) else ""
    print(f"tdformer {of('tdformer')} ({commit}torch {of('torch')})")
    raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Version, commit and torch, and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point. Exit codes: 0 done, 2 something the user can mend (one line), 130 interrupted."""
    try:
        app(args=[_at_home(word) for word in sys.argv[1:]], prog_name="tdformer")
    except Exception as e:
        line = _user_line(e)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _at_home(word: str) -> str:
    """`word` with the home folder for ~ also where the shell leaves it: in --site=~/mine.yaml, or in quotes."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + os.path.expanduser(value)


def _user_line(e: Exception) -> str | None:
    """The one line for an error that the user can mend, None for any other."""
    if isinstance(e, OSError) and e.errno in NO_SPACE:
        where = f" to write {e.filename}" if e.filename else ""
        return f"no space left{where}; free some and run the same command again"
    if os.strerror(errno.EMFILE) in str(e):  # libraries say it in words only
        return str(too_many_files("this process"))
    if isinstance(e, OSError) and e.errno in NOT_ALLOWED and e.filename:
        return f"{e.filename}: {e.strerror}"
    if (said := no_memory(e)) is not None:
        return f"{said}; free some, or run the same command on a machine with more"
    if not isinstance(e, RunError) and not isinstance(e, user_errors()):  # in this order: the second imports torch
        return None
    return " ".join(str(e).split())
