"""Where cells run: processes of this machine, whose ends are noted, and arrays that are written before they are
asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from stand_in_slurm import Site

from cluster.config import to_yaml
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.grid import Cell
from cluster.study.places import Arrays, Local, begin, groups

ONE, TWO = Shape(1, 1, 0), Shape(1, 2, 0)


@pytest.fixture
def cells(asked: Callable[..., Any], cell: Callable[..., CellFolder]) -> Callable[..., list[Cell]]:
    """Of these names, which have been kept."""

    def make(names: str, shape: Shape = TWO, *words: str) -> list[Cell]:
        found = [Cell(name, name, {}, asked(*words), shape) for name in names]
        for one in found:
            folder = cell(one.name)
            folder.run.launch_file.write_text(to_yaml(one.config))
        return found

    return make


def ended(local: Local) -> None:
    until = time.monotonic() + 30
    while local.busy() and time.monotonic() < until:
        time.sleep(0.01)
        local.look()


def test_a_process_has_the_studys_code_and_its_words_go_to_the_log(study: StudyFolder) -> None:
    (study.code / "kept.py").write_text("print('kept')\n")
    log = study.logs / "a.out"
    log.write_text("before\n")
    process = begin(("-c", "import kept, sys; sys.exit(3)"), study.code, log)
    assert process.wait(30) == 3 and log.read_text() == "before\nkept\n"


def test_how_a_process_ended_is_noted(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    made, local = cell("a"), Local(study)
    local.running["a"] = begin(("-c", "raise SystemExit(41)"), study.code, study.logs / "a.out")
    assert local.busy() and local.jobs([made])["a"].alive
    ended(local)
    assert not local.busy() and local.jobs([made]) == {}
    assert [row["exit_code"] for row in made.attempts.read()] == [41] and made.crashes() == 1


def test_a_study_that_ends_lets_its_processes_save(study: StudyFolder, cell: Callable[..., CellFolder]) -> None:
    made, local = cell("a"), Local(study)
    assert local.leave() is None
    log = study.logs / "a.out"
    save = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print('on'); time.sleep(60)"
    local.running["a"] = begin(("-c", save), study.code, log)
    until = time.monotonic() + 30
    while "on" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert local.leave() == "1 running cell saved"
    assert made.ends() == [143] and made.crashes() == 0


def names(found: Sequence[Sequence[Cell]]) -> list[str]:
    return ["".join(cell.name for cell in group) for group in found]


def test_an_array_is_of_cells_that_ask_for_the_same(cells: Callable[..., list[Cell]]) -> None:
    a, b, c = cells("abc")
    [d] = cells("d", ONE)
    [e] = cells("e", TWO, "site.minutes=7")
    [f] = cells("f", TWO, "data.workers=3")  # cores
    [g] = cells("g", TWO, "train.lr=0.5")
    assert names(groups([a, d, b, e, f, g, c])) == ["abgc", "d", "e", "f"]


def test_an_array_is_known_by_its_name_before_it_has_a_number(
    site: Site, study: StudyFolder, cells: Callable[..., list[Cell]]
) -> None:
    three, arrays = cells("abc"), Arrays(study)
    site.answers("sbatch", f"cp {study.arrays}/1.json {site.here}/then 2>/dev/null; echo 77")
    assert arrays.start(three, 2) == ["a", "b", "c"]
    facts = json.loads((study.arrays / "1.json").read_text())
    assert facts == json.loads((site.here / "then").read_text()) | {"id": "77"}
    assert facts["cells"] == ["a", "b", "c"] and facts["name"].startswith("s-1-")
    jobs = [CellFolder(study.path / "cells" / name).job() for name in "abc"]
    assert [job and job.id for job in jobs] == ["77_0", "77_1", "77_2"]
    arrays.spread(["a", "b", "c"], 1), arrays.spread(["a", "b", "c"], 1)
    assert site.calls("scontrol update") == ["scontrol update jobid=77 arraytaskthrottle=1"]
    arrays.withdraw(["b"])
    assert site.calls("scancel") and "77_1" in site.calls("scancel")[-1]
    assert not arrays.busy() and arrays.leave() == "what is queued or runs on Slurm goes on"
    assert arrays.start(cells("d", ONE), 0) == []  # no room


def test_an_array_that_slurm_refuses_leaves_no_file(
    site: Site, study: StudyFolder, cells: Callable[..., list[Cell]]
) -> None:
    arrays = Arrays(study)
    site.answers("sbatch", '[ "$1" = --test-only ] || { echo "QOSMaxSubmitJobPerUserLimit" >&2; exit 1; }')
    with pytest.raises(RunError, match="QOSMaxSubmitJobPerUserLimit"):
        arrays.start(cells("a"), 1)
    assert not list(study.arrays.glob("*.json")) and CellFolder(study.path / "cells" / "a").job() is None


def test_what_was_submitted_as_the_study_was_killed_is_asked_for_by_its_name(
    site: Site, study: StudyFolder, cells: Callable[..., list[Cell]]
) -> None:
    cells("ab")
    for number, name in ((1, "s-1-0a"), (2, "s-2-0b")):
        cell = "ab"[number - 1]
        (study.arrays / f"{number}.json").write_text(json.dumps({"name": name, "cells": [cell], "id": None}))
    site.answers("squeue", 'case "$*" in *s-1-0a*) echo 78;; esac')
    Arrays(study)
    ids = [json.loads((study.arrays / f"{number}.json").read_text())["id"] for number in (1, 2)]
    assert ids == ["78", None]
    jobs = [CellFolder(study.path / "cells" / name).job() for name in "ab"]
    assert [job and job.id for job in jobs] == ["78_0", None]
