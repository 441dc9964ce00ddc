"""A figure's keys in the YAML, and the page that lists them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from blocks import ROOT
from made_up_study import rows

from cluster.errors import RunError
from cluster.study.figures.base import FIGURES, Figure
from cluster.study.report import report


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
