"""`tdformer scale report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import RunError
from ..jobs.waiting import waits_here


def report(
    study: Annotated[Path, typer.Argument(metavar="CELLS.csv", help="The table of a study.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where it goes. [default: a folder `report` beside the table]")
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
    waits_here("loading PyTorch, whose registry figures are in")
    from ..study import report as reports
    from ..study.table import read, without_clock

    spec = _section(section) if section else {}
    rows = read(study)
    words = ["tdformer scale report", *([] if no_clock else [study.name]), *(["--no-clock"] if no_clock else [])]
    place = out or study.parent / "report"
    reports.report(without_clock(rows) if no_clock else rows, [], spec, place, " ".join(words))
    print(place / reports.INDEX)


def _section(study: Path) -> dict[str, Any]:
    """What a study's YAML has as `report`. Raises RunError."""
    import yaml

    from ..config.document import compose, file_text

    text = file_text(study)
    compose(text, str(study))  # raises, in one line, for what is not YAML
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not isinstance(content.get("report"), dict):
        raise RunError(f"{study} has no section report; give a study's YAML, or leave --figures out")
    return dict(content["report"])
