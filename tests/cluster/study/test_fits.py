"""`report.fits` of a study: what it may say, and the one line where it may not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cluster.errors import RunError
from cluster.study.fits import check, fit, kind_of

POWER = {"name": "p", "kind": "power", "y": "loss", "x": "images"}


def test_what_a_study_says_is_read() -> None:
    text = """
    - {name: law, kind: scaling_law, y: loss, x: [parameters, images], factors: [axis.model.segments], robust: true}
    - {name: error, kind: power, y: 1 - accuracy, x: images, group: axis.model.feedback, where: {axis.nodes: 1}}
    - {name: strong, kind: amdahl}
    - {name: weak, kind: efficiency, held_out: 0.5}
    - {name: memory, kind: linear, y: peak_gib, x: axis.model.time_steps}
    - {name: saves, kind: checkpoint, failures: 2e-5}
    - {name: feedback, kind: paired, y: accuracy, x: axis.model.feedback, base: none, over: axis.seed}
    """
    specs = check(yaml.safe_load(text.replace("2e-5", "0.00002")))
    assert [type(spec) for spec in specs[:2]] == [kind_of("scaling_law"), kind_of("power")]
    assert specs[0].x == ("parameters", "images") and specs[1].x == ("images",) and specs[2].x == ("world",)


@pytest.mark.parametrize(
    ("fits", "said"),
    [
        ({"name": "p"}, "report.fits is {name: p}; it takes a list of fits, each with a name and a kind"),
        (["p"], "report.fits[0] is p; a fit has a name, a kind, x and y"),
        ([POWER, POWER], "report.fits has two of the name p; give each its own"),
        ([POWER | {"kind": "powre"}], "report.fits[0] (p): kind is powre; did you mean power?"),
        ([POWER | {"kind": ["power"]}], "report.fits[0] (p): kind is [power]; did you mean power?"),
        ([POWER | {"kind": 3}], "report.fits[0] (p): kind is 3; choose from power, scaling_law, linear, "),
        ([POWER | {"roubst": True}], "report.fits[0] (p): no key roubst; did you mean robust? There are name, y, x, "),
        ([POWER | {"robust": 1}], "report.fits[0] (p): robust is 1; it takes true or false"),
        ([POWER | {"held_out": 1}], "report.fits[0] (p): held_out is 1; it takes a share from 0 to below 1"),
        ([POWER | {"held_out": float("nan")}], "report.fits[0] (p): held_out is nan; it takes a number"),
        ([POWER | {"x": 3}], "report.fits[0] (p): x is 3; it takes a column, or a list of them"),
        ([POWER | {"x": ["images", "parameters"]}], "report.fits[0] (p): power takes one x and no factors; "),
        ([POWER | {"where": "nodes"}], "report.fits[0] (p): where is nodes; it takes values by column"),
        ([{"name": "p", "kind": "power"}], "report.fits[0] (p): y or x is missing"),
        ([{"kind": "amdahl"}], "report.fits[0]: name is missing"),
        (
            [{"name": "c", "kind": "checkpoint", "failures": 0}],
            "report.fits[0] (c): failures is 0; it takes a number above",
        ),
    ],
)
def test_what_cannot_be_is_one_line(fits: Any, said: str) -> None:
    with pytest.raises(RunError) as caught:
        check(fits)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_rows_are_chosen_by_where() -> None:
    rows = [
        {"cell": str(n), "images": n, "loss": 1 + 1 / n, "axis.nodes": nodes}
        for nodes in (1, 2)
        for n in (1, 2, 4, 8, 16)
    ]
    found = fit(rows, POWER | {"where": {"axis.nodes": 1}, "held_out": 0})
    assert len(found.points) == 5 and found.parameters["alpha"].value == pytest.approx(1)
    assert fit(rows, POWER | {"where": {"axis.nodes": 3}}).note == "no cell has these values"


def test_a_column_that_nobody_has_is_named() -> None:
    rows = [{"cell": "a", "images": 1, "loss": 1.0}]
    assert fit(rows, POWER | {"y": "lss"}).note == "no finished cell has a number lss; did you mean loss?"
    assert fit(rows, POWER | {"group": "axis.t"}).note == "no cell has axis.t, which `group` names"
    assert fit([], POWER).note == "no cell has these values"
