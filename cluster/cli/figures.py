"""`tdformer figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError
from ..jobs.waiting import waits_here
from .pages import Group

group = Group("Paper")


def figure_names(incomplete: str) -> list[str]:
    from ..paper import FIGURES

    return [name for name in FIGURES.names() if name.startswith(incomplete)]


@group.add("Draw the paper's figures from runs.")
def figures(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME",
            help="Figures, such as 2 3 sensitivity; their options, such as images=64, last.",
            autocompletion=figure_names,
        ),
    ],
    runs: Annotated[
        list[str],
        typer.Option(
            "--from", metavar="RUN", help="A run folder, one step of it (RUN@STEP), or exported weights; for each run."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where they go.")] = Path("figures"),
) -> None:
    """Draw figures: of each FOLDER/figure-NAME.pdf, .png, its numbers as .csv, and .md with the caption and the runs
    that it is from. Runs that differ in their feedback are told apart, those that differ in their seed are put
    together. Equal runs give equal files; a file that is not ours stays, and is named."""
    words = [word for word in names if "=" in word]
    asked = [word for word in names if word not in words]
    if not asked:
        raise RunError(f"{words[0]} is an option, and no figure is named; tdformer figures 2 --from {runs[0]}")
    waits_here("loading PyTorch, the weights and the test sets")
    from ..paper import make

    for page in make(asked, runs, words, out):
        print(page, flush=True)
