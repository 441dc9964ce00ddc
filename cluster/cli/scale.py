"""Studies: many runs of one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError
from .arguments import Overrides, Site
from .pages import Group
from .scale_report import report

group = Group("Study")
scale = group.below("scale", "Studies: many runs of one grid.", "Run a grid of runs, and see how they scale.")


def _studies(incomplete: str) -> list[str]:
    from ..study.schema import names

    return [name for name in names() if name.startswith(incomplete)]


def _is_study(path: Path) -> Path:
    """Raises RunError for a setting where the study comes first."""
    if "=" in str(path) and not path.exists():
        raise RunError(f"{path} is a setting, and the study comes first: tdformer scale run weak_scaling {path}")
    return path


@scale.add("Run a study, or go on with it.")
def run(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            help="A YAML file, a study such as weak_scaling, or the folder of one that was begun.",
            autocompletion=_studies,
            callback=_is_study,
        ),
    ],
    overrides: Overrides = None,
    site: Site = None,
    again: Annotated[bool, typer.Option("--again", help="Try cells that have failed anew.")] = False,
    where: Annotated[
        str | None, typer.Option(metavar="PLACE", help="slurm, local or auto, instead of what the study says.")
    ] = None,
) -> None:
    """Run the cells of a study, on Slurm or here, until nothing is left to do. The same command goes on where it was
    killed."""
    from ..jobs.waiting import waits

    waits("loading PyTorch, the study and its data")
    from ..study.running import run as go

    raise typer.Exit(go(study, overrides or (), site, again, where))


@scale.add("How far a study is.")
def status(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study, such as runs/weak_scaling.")],
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
) -> None:
    """Cells by state, steps, GPU-hours used and allowed, time left."""
    from ..study import status as studies

    if as_json:
        from ..run.records import to_json

        print(to_json(studies.status(study)))
    else:
        studies.show(study)


scale.add("Draw a study as a page.")(report)
