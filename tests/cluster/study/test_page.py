"""A report as a reader has it: in a browser, with all kinds of figures and hostile names. The rows are made up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page
from made_up_study import HOSTILE, fits, rows

from cluster.study.report import report

FIGURES: list[dict[str, Any]] = [
    {"kind": "efficiency", "text": HOSTILE},
    {"kind": "steptime"},
    {"kind": "memory"},
    {"kind": "predicted"},
    {"kind": "fit", "fit": "power"},
    {"kind": "goodput"},
    {"kind": "curve", "x": "axis.processes", "y": "loss", "log": "xy", "title": HOSTILE},
    {"kind": "curve", "x": "cell", "y": "loss", "group": []},
    {"kind": "paired"},
    {"kind": "fit", "fit": HOSTILE},
    {"kind": "table", "columns": ["loss"], "where": {"state": "finished"}},
]
MARKS = {
    "scatter": "document.querySelectorAll('#ID path.point').length",
    "bar": "document.querySelectorAll('#ID .bars path').length",
}

INSIDE = """(() => {
  const all = document.getElementById("ID").getBoundingClientRect();
  const marks = [...document.querySelectorAll("#ID path.point, #ID .bars path")].map(e => e.getBoundingClientRect());
  const across = marks.every(r => r.left >= all.left && r.right <= all.right);
  const inside = across && marks.every(r => r.top >= all.top && r.bottom <= all.bottom);
  return [inside, new Set(marks.map(r => `${r.x} ${r.y}`)).size];
})()"""
"""Whether all marks lie within their figure, and at how many places."""


@pytest.fixture(scope="module")
def page(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report")
    report(rows(), fits(), {"title": HOSTILE, "text": HOSTILE, "figures": FIGURES}, folder)
    opened = chromium.open(folder / "index.html")
    opened.picture(folder / "report.png")
    return opened


def drawn(page: Page) -> list[dict[str, Any]]:
    """The figures, in order, as Plotly was given them."""
    return page.value(
        "[...document.querySelectorAll('.plot')].map(e => ({id: e.id, data: JSON.parse("
        "document.getElementById(e.id + '-data').textContent).data}))"
    )


def test_every_figure_is_drawn(page: Page) -> None:
    figures = drawn(page)
    assert [one["id"] for one in figures] == [f"figure-{i}" for i in range(1, 10)]
    for one in figures:
        wanted = dict.fromkeys(MARKS, 0)
        for trace in one["data"]:
            wanted[trace["type"]] += len(trace["x"]) if "markers" in trace.get("mode", "markers") else 0
        found = {kind: page.value(script.replace("ID", one["id"])) for kind, script in MARKS.items()}
        assert found == wanted and sum(wanted.values()) >= 2, one["id"]
        lines = sum("lines" in trace.get("mode", "") for trace in one["data"])
        assert page.value(f"document.querySelectorAll('#{one['id']} .scatterlayer path.js-line').length") == lines
        inside, apart = page.value(INSIDE.replace("ID", one["id"]))
        assert inside and apart >= 2, one["id"]
        height = page.value(f"document.getElementById('{one['id']}')._fullLayout._size.h")
        assert height > 200, f"names take the room of {one['id']}"


def test_nothing_is_fetched_and_nothing_is_wrong(page: Page) -> None:
    assert page.said == []
    assert len(page.asked) == 1 and page.asked[0].startswith("file:///")


def test_names_stay_text(page: Page) -> None:
    """As a title, a text, a cell in the table, a cell on an axis and a cell in a hover."""
    assert page.value("typeof window.owned") == "undefined"
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.title") == page.value("document.querySelector('h1').textContent") == HOSTILE
    texts = "[...document.querySelectorAll('ELEMENT')].filter(e => e.textContent.includes('window.owned')).length"
    for element, count in (("h1", 1), ("h2", 2), ("section > p", 2), ("td", 1)):
        assert page.value(texts.replace("ELEMENT", element)) == count, element
    names = page.value("[...document.querySelectorAll('#figure-8 .xaxislayer-above text')].map(e => e.textContent)")
    assert f"{HOSTILE[:20]}…{HOSTILE[-9:]}" in names and "all-1-0" in names


def test_a_point_says_which_cell_it_is_and_leads_to_it(page: Page) -> None:
    page.value("document.getElementById('figure-7').scrollIntoView()")
    place = page.value(
        "(r => [r.x + r.width / 2, r.y + r.height / 2])([...document.querySelectorAll('#figure-8 path.point')].at(-1)"
        ".getBoundingClientRect())"
    )

    def mouse(kind: str, **also: Any) -> None:
        page.browser.call("Input.dispatchMouseEvent", page.session, type=kind, x=place[0], y=place[1], **also)

    mouse("mouseMoved")
    deadline = time.monotonic() + 30
    while not (hover := page.value("document.querySelector('#figure-8 .hoverlayer').textContent")):
        assert time.monotonic() < deadline, "no hover"
        mouse("mouseMoved")
    assert HOSTILE in hover and "processes on each node = 1" in hover
    for kind in ("mousePressed", "mouseReleased"):
        mouse(kind, button="left", clickCount=1)
    assert page.value("new Promise(done => setTimeout(() => done(location.hash), 400))") == f"#cell-{len(rows()) - 1}"
    assert page.value("document.querySelector(':target').textContent").startswith(HOSTILE)


def test_simulated_points_are_hollow(page: Page) -> None:
    """In the figure of the curve all that is measured is filled."""
    fills = "[...document.querySelectorAll('#FIGURE path.point')].map(e => getComputedStyle(e).fill)"
    hollow = [
        fill for fill in page.value(fills.replace("FIGURE", "figure-1")) if fill in ("none", "rgb(255, 255, 255)")
    ]
    assert len(hollow) == 4  # two cells, in both panels
    assert "simulated" in page.value("document.querySelector('#figure-1 .legend').textContent")
    assert not {"none", "rgb(255, 255, 255)"} & {*page.value(fills.replace("FIGURE", "figure-7"))}


def test_a_browser_tells_what_is_wrong(chromium: Browser, tmp_path: Path) -> None:
    """What the tests above find nothing of is found where it is."""
    scripts = (
        "<script>window.owned = 1; console.error('oh'); fetch('http://127.0.0.1:9/x').catch(() => 0); nobody()</script>"
    )
    (tmp_path / "bad.html").write_text(f"<!DOCTYPE html><title>x</title>{scripts}")
    page = chromium.open(tmp_path / "bad.html")
    assert page.value("window.owned") == 1
    said = " ".join(page.said)
    assert "oh" in said and "nobody is not defined" in said
    assert "http://127.0.0.1:9/x" in page.asked
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"/>'
    (tmp_path / "kept.html").write_text(f"<!DOCTYPE html>{policy}<title>x</title>{scripts}")
    kept = chromium.open(tmp_path / "kept.html")
    assert kept.value("typeof window.owned") == "undefined" and "Content Security Policy" in " ".join(kept.said)
