"""What pages of HTML that we write have in common: text that cannot become markup, tables, and figures."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import RunError
from ..run.records import to_json

STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 2em } .wide { overflow-x: auto }
th, td { border: 1px solid #ccc; padding: .2em .6em; text-align: right } th { font-weight: 600; background: #f4f4f4 }
.name { text-align: left }
"""

SCRIPT = """
const config = {
  displaylogo: false, responsive: true, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]]
};
for (const place of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(document.getElementById(place.id + "-data").textContent);
  Plotly.newPlot(place, figure.data, figure.layout, config).then(() => {
    place.on("plotly_click", (event) => {
      if (event.points[0].customdata) location.hash = "cell-" + event.points[0].customdata;
    });
  });
}
"""
"""Draws the figures of `plot`; a click on a point that has `customdata` leads to that cell's line in a table."""


def text(words: str) -> str:
    """As a page can have it."""
    return html.escape(printable(words))


def printable(words: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)


def embedded(numbers: Mapping[str, object]) -> str:
    """JSON that neither ends the element that it is in nor begins another."""
    return to_json(numbers).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """head: escaped; rows: elements, from `head_cell` and `cell`."""
    first = f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>\n" if head else ""
    body = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in rows)
    return f'<div class="wide"><table>\n{first}{body}</table></div>\n'


def head_cell(words: str) -> str:
    """words: escaped."""
    return f'<th class="name">{words}</th>'


def cell(words: str, kind: str = "") -> str:
    """words: escaped."""
    return f'<td class="{kind}">{words}</td>' if kind else f"<td>{words}</td>"


def plot(name: str, title: str, figure: Mapping[str, object], height: int, note: str = "") -> str:
    """A figure for `SCRIPT`. figure: plotly's `data` and `layout`; note: markup between the two elements."""
    return (
        f'<div class="plot" id="{name}" role="img" aria-label="{text(title)}" style="height: {height}px"></div>\n{note}'
        f'<script type="application/json" id="{name}-data">{embedded(figure)}</script>\n'
    )


def policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and no script runs but ours."""
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:"


def plotly() -> str:
    """Plotly's script, all of it: the package has no smaller one. Found without an import, which takes a second."""
    found = importlib.util.find_spec("plotly")
    places = list(found.submodule_search_locations or []) if found else []
    script = Path(places[0]) / "package_data" / "plotly.min.js" if places else Path("plotly")
    try:
        return script.read_text("utf-8")
    except OSError as e:
        raise RunError(
            f"the script of plotly cannot be read ({script}: {e.strerror}); install that package again"
        ) from e
