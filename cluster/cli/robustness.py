"""`tdformer robustness`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError, memory_errors
from ..jobs.waiting import waits_here
from .arguments import count
from .pages import Group

group = Group("Paper")


@group.add("Compare runs on corrupted pictures, as Table 7 does.")
def robustness(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN", help="Run folders, steps of them (RUN@STEP), or studies; data.root=... and plugins=... last."
        ),
    ],
    corrupted_set: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of CIFAR-10-C, CIFAR-100-C or ImageNet-C. [default: they are made here]"),
    ] = None,
    kinds: Annotated[str, typer.Option(metavar="KINDS", help="Such as fog,snow. [default: all]")] = "",
    severities: Annotated[str, typer.Option(metavar="LEVELS", help="Of 1 to 5.")] = "1,2,3,4,5",
    images: Annotated[int | None, count("Pictures of the test set, evenly chosen. [default: all]")] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="For what was measured. [default: corrupted.jsonl in each run's folder]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, with each run and severity.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it too: .md as it is printed, .json with all of it.")
    ] = None,
) -> None:
    """Compare runs with and without feedback on corrupted pictures, as the paper's Table 7 does: accuracy by
    corruption, the difference that feedback makes and its interval over seeds, the mean corruption error. What is
    measured is kept: the same command goes on where it was killed."""
    overrides = [word for word in runs if "=" in word and not Path(word.rpartition("@")[0] or word).exists()]
    given = [Path(word) for word in runs if word not in overrides]
    if not given:
        raise RunError(
            f"{overrides[0]} is a setting, and no run is given; tdformer robustness runs/NAME {overrides[0]}"
        )
    waits_here("loading PyTorch, the weights and the test set")
    from ..results.corruption import Asked, measured
    from ..run.records import to_json
    from ..study import robustness_page as pages
    from ..study.robustness import runs_of, table

    if out is not None:
        pages.check_place(out)
    asked = Asked(_kinds(kinds), _severities(severities), corrupted_set, images, keep)
    paths, notes = runs_of(given)

    def told(line: str) -> None:
        print(f"... {line}", file=sys.stderr, flush=True)

    with memory_errors("set a lower train.micro_batch"):
        found = table(measured(paths, asked, overrides, told), notes)
    if out is not None:
        pages.write(out, found)
    print(to_json(found) if as_json else pages.markdown(found), end="\n" if as_json else "")


def _kinds(given: str) -> tuple[str, ...] | None:
    return None if given in ("", "all") else tuple(dict.fromkeys(given.split(",")))


def _severities(given: str) -> tuple[int, ...]:
    words = given.split(",")
    if not all(word.strip() in ("1", "2", "3", "4", "5") for word in words):
        raise RunError(f"--severities {given}: they are 1 to 5; give some of 1,2,3,4,5")
    return tuple(sorted({int(word) for word in words}))
