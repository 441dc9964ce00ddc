"""`tdformer scale report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..jobs.waiting import waits_here


def report(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The folder of a study, or its cells.csv.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it goes. [default: the folder `report` in the study's]")
    ] = None,
    section: Annotated[
        Path | None,
        typer.Option("--figures", metavar="STUDY.yaml", help="Whose section `report` says what is drawn."),
    ] = None,
    no_clock: Annotated[
        bool, typer.Option("--no-clock", help="Without what a clock or a machine decides: equal results, equal bytes.")
    ] = False,
) -> None:
    """Draw a study: DIR/index.html, a page that needs nothing else, and cells.csv and fits.json beside it. What else
    lies there under these names stays, and is named."""
    waits_here("reading the study")
    from ..study import fits, schema, table
    from ..study import report as reports
    from ..study.rows import rows

    file = section or (schema.find(study) if study.is_dir() else None)
    spec: schema.Report = (schema.read(file).report or {}) if file else {}
    reports.check(spec)
    fits.check(spec.get("fits", []))
    of = rows(study) if study.is_dir() else table.read(study)
    of = table.without_clock(of) if no_clock else of
    found = [fits.fit(of, one).as_json() for one in spec.get("fits", [])]
    words = ["tdformer scale report", *(["--no-clock"] if no_clock else [study.resolve().name])]
    place = out or (study if study.is_dir() else study.parent) / "report"
    reports.report(of, found, spec, place, " ".join(words))
    print(place / reports.INDEX)
