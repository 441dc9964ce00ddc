"""`tdformer energy`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import memory_errors
from ..jobs.waiting import waits_here
from ..run.records import to_json
from .arguments import count, run_first
from .pages import Group

group = Group("Paper")


@group.add("What a model's images cost in energy.")
def energy(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run folder, one step of it (RUN@STEP), or exported weights.",
            callback=run_first,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="data.root, plugins or train.micro_batch."),
    ] = None,
    images: Annotated[int, count("Samples of the test set that are counted, lying evenly in it.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, with units and time steps.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the energy by unit and by time step.")
    ] = None,
) -> None:
    """Count the operations of a model on its test set, exactly, and what they cost: by part, under several published
    prices, beside the same network with real activations. What is counted, and what is assumed: docs/energy.md."""
    waits_here("loading PyTorch, the weights and the test set")
    from ..paper import energy as energies
    from ..paper.opening import Run
    from ..results import report as reports

    if report is not None:
        reports.check(report)
    with memory_errors("set a lower train.micro_batch"):
        run = Run.open(str(model), overrides or ())
        row = energies.as_json(run, energies.counted(run, images))
    for line in row["unknown"]:
        print(f"not counted: {line}", file=sys.stderr)
    print(to_json(row) if as_json else "\n".join(energies.table(row)))
    if report is not None:
        energies.write(report, row)
