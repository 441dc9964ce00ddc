"""A report: what its figures say of rows, that equal rows are equal bytes, and that nothing of others is lost. How it
looks in a browser: test_page.py. The rows are made up."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import ROOT, blocks
from made_up_study import cell, drawn, fits, rows

from cluster.errors import RunError
from cluster.study.figures.base import Cells, Plot
from cluster.study.report import check, report
from cluster.study.table import from_csv, to_csv, without_clock

BARE = [{"cell": "a", "state": "waiting", "axis.seed": 0}, {"cell": "b", "state": "waiting", "axis.seed": 1}]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"kind": "efficiency"}, "no cell has world yet"),
        ({"kind": "steptime"}, "no cell has the parts of its step time, measured, yet"),
        ({"kind": "memory"}, "no cell has the parts of its memory"),
        ({"kind": "predicted"}, "no cell has both seconds_step and predicted.seconds_step yet"),
        ({"kind": "fit", "fit": "power"}, "the study has no fits"),
        ({"kind": "goodput"}, "no cell says how much of its GPU-hours was good yet"),
        (
            {"kind": "curve", "x": "axis.sed", "y": "accuracy"},
            "no cell has axis.sed yet; the nearest column is axis.seed",
        ),
        ({"kind": "paired"}, "no cell has axis.model.feedback yet"),
        ({"kind": "table", "columns": ["loss"]}, "no cell has loss yet"),
        ({"kind": "table", "where": {"state": "finished"}}, "no cell has state = finished"),
    ],
)
def test_what_is_missing_is_said_in_a_line(tmp_path: Path, spec: dict[str, Any], line: str) -> None:
    report(BARE, [], {"figures": [spec]}, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    [said] = re.findall(r'<section>.*?<p class="missing">([^<]*)</p>', text, re.S)
    assert said.startswith(line) and 'class="plot" id=' not in text


def test_without_figures_a_report_draws_what_the_rows_have(tmp_path: Path) -> None:
    report(rows(), fits(), {}, tmp_path / "all")
    report(BARE, [], {}, tmp_path / "none")
    heads = {
        name: re.findall("<h2>(.*?)</h2>", (tmp_path / name / "index.html").read_text()) for name in ("all", "none")
    }
    assert heads["none"] == ["Cells"]
    assert heads["all"] == [
        "Scaling",
        "Time of a step by part",
        "Memory by part",
        "Goodput by cause",
        "Predicted and measured: time of a step (s)",
        "Predicted and measured: peak memory of a process (GiB)",
        "Fit: power",
        "Fit: few",
        "Accuracy on the test set by model.feedback, in pairs",
        "Cells",
    ]


def test_a_study_without_cells_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no cells, and so nothing to report"):
        report([], [], {}, tmp_path / "out")


def test_the_page_of_the_docs(tmp_path: Path) -> None:
    """Its section is one, and its kind of figure is drawn."""
    named = {block.file: block.text for block in blocks(ROOT / "docs" / "report.md")}
    section = check(yaml.safe_load(named["study.yaml"])["report"]) or []
    assert [type(one).__name__ for one in section] == ["Efficiency", "Curve", "Paired", "Summary"]
    (tmp_path / "rates.py").write_text(named["rates.py"])
    spec = {"plugins": [str(tmp_path / "rates.py")], "figures": [{"kind": "rates", "y": "loss"}]}
    [rates] = check(spec) or []
    plot = rates.draw(Cells(rows()))
    assert isinstance(plot, Plot) and plot.traces[0]["y"] == [0.5] * 18 + [9.0]
    with pytest.raises(RunError, match=r"figures.0.: no key z; did you mean title\?"):
        check({"figures": [{"kind": "rates", "z": "loss"}]})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    spec = {"title": "One", "text": "A text."}
    report(rows(), fits(), spec, tmp_path / "a", "tdformer scale report")
    report(from_csv(to_csv(rows())), fits(), spec, tmp_path / "b" / "c", "tdformer scale report")
    first = files(tmp_path / "a")
    assert set(first) == {"index.html", "cells.csv", "fits.json"}
    assert first == files(tmp_path / "b" / "c")
    report(rows(), fits(), spec, tmp_path / "a", "tdformer scale report")  # over itself
    assert first == files(tmp_path / "a")
    assert from_csv(first["cells.csv"].decode()) == from_csv(to_csv(rows()))
    assert json.loads(first["fits.json"]) == fits()


def test_studies_that_differ_by_a_clock_alone(tmp_path: Path) -> None:
    later = [
        row | {"date": "2027-01-01", "machine": "another", "good": 0.7, "seconds_step": 9.0, "images_second": 1.5}
        for row in rows()
    ]
    for name, of in (("a", rows()), ("b", later), ("c", [row | {"loss": 0.1} for row in rows()])):
        report(of, [], {}, tmp_path / name / "with")
        report(without_clock(of), [], {}, tmp_path / name / "without")
    assert files(tmp_path / "a" / "without") == files(tmp_path / "b" / "without")
    assert files(tmp_path / "a" / "with")["index.html"] != files(tmp_path / "b" / "with")["index.html"]
    assert files(tmp_path / "a" / "without")["index.html"] != files(tmp_path / "c" / "without")["index.html"]
    assert b"a machine" not in files(tmp_path / "a" / "without")["index.html"]


@pytest.mark.parametrize("name", ["index.html", "cells.csv", "fits.json"])
def test_what_we_did_not_write_stays(tmp_path: Path, name: str) -> None:
    """Neither a file of others nor one of ours that somebody has changed is written over; nothing beside it either."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / name).write_text("theirs")
    report(rows(), fits(), {}, tmp_path / "ours")
    with (tmp_path / "ours" / name).open("a") as file:
        file.write("changed\n")
    for folder in (tmp_path / "theirs", tmp_path / "ours"):
        before = files(folder)
        with pytest.raises(RunError, match=f"{name} is there, and not as a report was left"):
            report(rows()[:5], [], {}, folder)
        assert files(folder) == before


def test_a_report_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    """The page comes last: with new files beside an old page the same command goes on."""
    report(rows()[:5], [], {}, tmp_path / "old")
    report(rows(), fits(), {}, tmp_path / "new")
    wanted = files(tmp_path / "new")
    for count in (1, 2):
        report(rows()[:5], [], {}, tmp_path / str(count))
        for name in ("cells.csv", "fits.json")[:count]:
            (tmp_path / str(count) / name).write_bytes(wanted[name])
        report(rows(), fits(), {}, tmp_path / str(count))
        assert files(tmp_path / str(count)) == wanted


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    of = [cell("none", n, 0) | {"accuracy": value} for n, value in ((1, math.nan), (2, 0.5), (4, None), (8, math.inf))]
    [line] = drawn({"kind": "curve", "x": "world", "y": "accuracy", "group": []}, of).traces
    assert line["x"] == [2] and line["y"] == [0.5]
    report(of, [], {}, tmp_path / "out")
