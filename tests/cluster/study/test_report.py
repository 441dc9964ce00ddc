"""A report: what its figures say of rows, that equal rows are equal bytes, and that nothing of others is lost. How it
looks in a browser: test_page.py. The rows are made up."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import ROOT, blocks
from made_up_study import HOSTILE, cell, fits, rows
from scipy import stats

from cluster.errors import RunError
from cluster.study.figures.base import FIGURES, Cells, Figure, Nothing, Plot, figure
from cluster.study.report import check, report
from cluster.study.table import from_csv, read, to_csv, without_clock


def drawn(spec: dict[str, Any], of: list[dict[str, Any]] | None = None) -> Plot:
    one = figure(spec, "report.figures[0]")
    found = one.draw(Cells(rows() if of is None else of, fits()).where(one.where))
    assert isinstance(found, Plot)
    return found


def traces(plot: Plot, name: str, **also: Any) -> list[dict[str, Any]]:
    return [one for one in plot.traces if one.get("name") == name and all(one.get(k) == v for k, v in also.items())]


def test_efficiency_is_against_the_fewest_processes() -> None:
    plot = drawn({"kind": "efficiency"})
    [rate, share] = traces(plot, "feedback none")
    seconds = [2 * (1 + seed / 100) for seed in range(3)]
    first = sum(64 / s for s in seconds) / 3
    assert rate["x"] == [1, 2, 4] and rate["y"] == pytest.approx([first * n**0.9 for n in (1, 2, 4)])
    assert rate["error_y"]["array"][0] == pytest.approx(64 / seconds[0] - first)
    assert rate["error_y"]["arrayminus"][0] == pytest.approx(first - 64 / seconds[2])
    assert share["y"] == pytest.approx([100 * n**-0.1 for n in (1, 2, 4)])
    [ideal, *_] = traces(plot, "ideal")
    assert ideal["y"] == pytest.approx([first * n for n in (1, 2, 4)])
    [modelled, efficient] = traces(plot, "feedback all (simulated)")
    assert modelled["marker"]["symbol"].endswith("-open") and efficient["x"] == [8, 16]
    assert not traces(plot, "feedback all")[0]["marker"]["symbol"].endswith("-open")
    base = sum(64 / (s * 1.1) for s in seconds) / 3  # measured: the series' ideal, also where it is simulated
    assert efficient["y"] == pytest.approx([100 * (64 / 2.2 * n**0.9) / (base * n) for n in (8, 16)])


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_efficiency_of_a_time_has_its_quartiles(scaling: str) -> None:
    of = [cell("none", n, 0) for n in (1, 2, 4)]
    [time, share] = traces(drawn({"kind": "efficiency", "y": "seconds_step", "scaling": scaling}, of), "measured")
    assert time["error_y"]["arrayminus"] == pytest.approx([0.1 * s for s in time["y"]])
    assert time["error_y"]["array"] == pytest.approx([0.2 * s for s in time["y"]])
    wanted = [100 * n ** (-0.1 if scaling == "strong" else 0.9) for n in (1, 2, 4)]
    assert share["y"] == pytest.approx(wanted)
    assert share["error_y"]["array"] == pytest.approx([y / 0.9 - y for y in wanted])


def test_a_curve_is_the_mean_from_the_lowest_to_the_highest() -> None:
    plot = drawn({"kind": "curve", "x": "axis.processes", "y": "accuracy", "where": {"axis.model.feedback": ["none"]}})
    [line] = plot.traces
    assert line["name"] == "measured" and line["y"] == pytest.approx([0.81] * 3)
    assert line["error_y"]["array"] == pytest.approx([0.01] * 3) == line["error_y"]["arrayminus"]
    assert line["hovertext"][0].endswith("3 cells: none-1-0, none-1-1, none-1-2")
    lines = drawn({"kind": "curve", "x": "axis.processes", "y": "accuracy", "log": "x"})
    assert [one["name"] for one in lines.traces] == ["feedback none", "feedback all"]
    assert lines.layout["xaxis"]["type"] == "log" and lines.layout["yaxis"]["type"] == "linear"
    each = drawn(
        {"kind": "curve", "x": "axis.processes", "y": "accuracy", "group": ["axis.seed", "axis.model.feedback"]}
    )
    assert len(each.traces) == 6 and each.traces[0]["name"] == "seed 0, feedback none"
    texts = drawn({"kind": "curve", "x": "axis.model.feedback", "y": "accuracy", "group": []})
    assert texts.layout["xaxis"]["type"] == "category" and texts.traces[0]["x"] == ["none", "all"]


def test_bars_are_means_of_parts() -> None:
    plot = drawn({"kind": "steptime", "by": "axis.processes"})
    [compute] = traces(plot, "compute")
    assert compute["x"] == ["processes 1", "processes 2", "processes 4"]
    assert compute["y"][0] == pytest.approx(0.8 * 2 * 1.05 * 1.01)
    assert [one["name"] for one in plot.traces] == ["data", "compute", "other", "whole step"]
    [whole] = traces(plot, "whole step")
    assert whole["y"][0] == pytest.approx(2 * 1.05 * 1.01)
    assert whole["error_y"]["array"][0] == pytest.approx(0.2 * 2 * 1.05 * 1.01)
    memory = drawn({"kind": "memory", "where": {"axis.seed": 0}})
    assert traces(memory, "weights")[0]["y"] == pytest.approx([0.2] * 6)
    assert traces(memory, "measured peak")[0]["y"][:3] == pytest.approx([0.6, 0.7, 0.9])
    assert [one["name"] for one in drawn({"kind": "steptime", "source": "predicted"}).traces] == [
        "compute",
        "whole step",
    ]
    goodput = drawn({"kind": "goodput"})
    assert [(one["name"], one["y"][0]) for one in goodput.traces] == [
        ("good", pytest.approx(80)),
        ("data", pytest.approx(5)),
        ("start", pytest.approx(15)),
    ]
    assert traces(drawn({"kind": "goodput", "unit": "hours"}), "good")[0]["y"][0] == pytest.approx(0.4)


def test_simulated_bars_are_hollow() -> None:
    of = [cell("none", 1, 0), cell("none", 2, 0) | {"simulated": True}]
    plot = drawn({"kind": "memory"}, of)
    assert {one["name"]: one["marker"]["color"] == "#ffffff" for one in plot.traces if one["type"] == "bar"} == {
        "activations": False,
        "activations (simulated)": True,
        "weights": False,
        "weights (simulated)": True,
    }


def test_predictions_are_off_by_so_much() -> None:
    plot = drawn({"kind": "predicted"})
    points, off = traces(plot, "measured")
    assert points["y"] == pytest.approx([1.05 * x for x in points["x"]])
    assert off["y"] == pytest.approx([5.0] * 18) and len(off["x"]) == 18
    assert plot.note == "18 cells: off by 5.0 % in the median, 5.0 % at most."
    [diagonal] = traces(plot, "predicted = measured")
    assert diagonal["x"] == diagonal["y"]


def test_pairs_have_the_interval_of_students_t() -> None:
    plot = drawn({"kind": "paired", "group": ["axis.processes"]})
    [mean] = traces(plot, "processes 2", xaxis="x2")
    differences = [0.02, 0.021, 0.022]
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert mean["y"] == [pytest.approx(0.021)]
    assert mean["error_y"]["array"][0] == pytest.approx((interval.high - interval.low) / 2)
    joined = traces(plot, "processes 2", x=["none", "all"])
    assert [one["y"] for one in joined] == [pytest.approx([0.8 + s / 100, 0.82 + 0.011 * s]) for s in range(3)]
    assert "processes 1: +0.021 ± 0.0025 (95 %, 3 pairs)" in plot.note
    turned = drawn({"kind": "paired", "group": ["axis.processes"], "values": ["all", "none"]})
    assert traces(turned, "processes 2", xaxis="x2")[0]["y"] == [pytest.approx(-0.021)]
    assert drawn({"kind": "paired"}, rows()[::-1]).note.startswith("all − none: ")
    assert drawn({"kind": "paired", "group": []}).note == "all − none: +0.021 ± 0.00067 (95 %, 9 pairs)."
    cases = [
        row | {"axis.case": row["axis.model.feedback"]} for row in rows()
    ]  # what decides another axis is no pair's
    more = [row | {"axis.case": "more", "cell": f"more-{i}"} for i, row in enumerate(cases[9:18])]
    spec = {"kind": "paired", "axis": "axis.case", "values": ["none", "all"], "group": "axis.processes"}
    assert drawn(spec, [*cases, *more]).note.count("3 pairs") == 3
    one = drawn({"kind": "paired", "where": {"axis.seed": 1, "axis.processes": 2}})
    assert one.note == "all − none: +0.021 of one pair, which has no interval."


def test_a_fit_shows_what_was_held_out() -> None:
    plot = drawn({"kind": "fit", "fit": "power"})
    assert [one["x"] for one in traces(plot, "measured")] == [[1, 2]] * 2
    titles = [plot.layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis", "yaxis2")]
    assert titles == ["processes", "training loss", "off by (%)"]
    [point, off] = traces(plot, "held out")
    assert point["x"] == [4] and off["y"] == [pytest.approx(100 * (2 / 2.02 - 1))] and off["yaxis"] == "y2"
    assert plot.note == (
        "y = a x^-b; a = 2 (1.9 to 2.1); off by 1 % (root mean square); held-out points off by 1 % (root mean square)."
    )
    with pytest.raises(Nothing, match="few: not enough cells: 3, at least 6 are needed"):
        drawn({"kind": "fit", "fit": "few"})
    with pytest.raises(Nothing, match="no fit powr; the nearest is power"):
        drawn({"kind": "fit", "fit": "powr"})


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


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"figure": []}, "report.figure is no key of a report; the nearest is figures"),
        ({"figures": {}}, "report.figures is {}; expected a list"),
        ({"title": 3}, "report.title is 3; expected text"),
        ({"figures": ["curve"]}, "report.figures[0] is curve; expected a figure's keys"),
        ({"figures": [{"y": "loss"}]}, "report.figures[0] has no kind; choose efficiency,"),
        ({"figures": [{"kind": "curv"}]}, "kind of figure 'curv' is unknown; did you mean 'curve'?"),
        (
            {"figures": [{"kind": "curve", "yy": "loss"}]},
            "report.figures[0]: no key yy; did you mean y? There are title, text, where, x, ",
        ),
        ({"figures": [{"kind": "curve", "y": "loss"}]}, "report.figures[0]: x is missing"),
        ({"figures": [{"kind": "curve", "x": 1, "y": "loss"}]}, "report.figures[0]: x is 1; it takes text"),
        ({"figures": [{"kind": "curve", "x": "a", "y": "b", "log": "z"}]}, "log is z; choose empty, x, y or xy"),
        (
            {"figures": [{"kind": "curve", "x": "a", "y": "b", "group": [1]}]},
            "report.figures[0]: group is [1]; it takes a column, or a list of them",
        ),
        (
            {"figures": [{"kind": "table"}, {"kind": "table", "where": "x"}]},
            "report.figures[1]: where is x; it takes values by column",
        ),
        ({"plugins": ["no_such_module"]}, "report: plugins has no_such_module, which cannot be imported"),
    ],
)
def test_a_section_that_is_wrong_is_named(tmp_path: Path, spec: dict[str, Any], line: str) -> None:
    with pytest.raises(RunError) as said:
        report(rows(), [], spec, tmp_path / "out")
    assert line in str(said.value) and "\n" not in str(said.value)
    assert not (tmp_path / "out").exists()


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


def test_the_command(cli: Any, tmp_path: Path) -> None:
    """From a CSV alone; what a study's YAML says of its report; and lines for what cannot be."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cells.csv").write_text(to_csv(rows()))
    section = "report:\n  title: Mine\n  figures: [{kind: curve, x: world, y: loss}]\n"
    (tmp_path / "study.yaml").write_text(f"name: s\nconfig: digits\ngrid: {{model.feedback: [none, all]}}\n{section}")
    done = cli("scale", "report", "mine/cells.csv", "--figures", "study.yaml", "--no-clock", "--out", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a/index.html\n", "")
    text = (tmp_path / "a" / "index.html").read_text()
    assert re.findall("<h[12]>(.*?)</h", text) == ["Mine", "Training loss against processes", "Cells"]
    assert read(tmp_path / "a" / "cells.csv") == from_csv(to_csv(without_clock(rows())))
    assert "<script>window" not in text and HOSTILE.partition("window")[2][:10] in text
    for words, line in (
        (["mine/cells.csv", "--figures", "none.yaml"], "none.yaml: no such configuration file"),
        (["mine/none.csv"], "mine/none.csv: cannot be read (No such file or directory)"),
        (["study.yaml"], "study.yaml: no column is called cell"),
        (["mine/cells.csv", "--out", "study.yaml"], "study.yaml is there and no folder"),
    ):
        done = cli("scale", "report", *words)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"error: {line}")
        assert done.stderr.count("\n") == 1


def test_the_docs_name_every_key() -> None:
    page = (ROOT / "docs" / "report.md").read_text()
    common = {field.name for field in dataclasses.fields(Figure)}
    kinds = [kind for kind in FIGURES if FIGURES.origin(kind).startswith("cluster.study.figures")]
    assert len(kinds) == 9
    for kind in kinds:
        [line] = re.findall(rf"^\| `{kind}` \|.*\|$", page, re.M)
        for field in dataclasses.fields(FIGURES.get(kind)):
            words = page if field.name in common else line
            assert re.search(rf"`{field.name}`", words), f"{kind}: {field.name}"
