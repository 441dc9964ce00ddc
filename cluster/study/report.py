"""A study's report: one page of HTML that needs nothing else, the table as CSV, and the fits as JSON.

Nothing in it depends on when or where it was made: equal rows give equal bytes. Rows without a clock's columns
(`table.without_clock`) give equal bytes for any two studies with equal results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.plugins import take
from ..config.words import nearest, show
from ..errors import RunError, disk_errors
from ..results import marks, page
from ..run.records import to_json, write_atomic
from .figures import FIGURES
from .figures.base import Cells, Figure, Nothing, Plot, Table, figure, is_seed
from .figures.summary import Summary
from .schema import Report
from .table import Row, to_csv

KEYS = ("title", "text", "figures", "fits", "plugins")
"""What the section `report` of a study may have; fits: see fits.py; plugins: modules that register kinds of figures."""
INDEX, CELLS, FITS = "index.html", "cells.csv", "fits.json"
_STYLE = """
body { max-width: 76em } .line { color: #444 } .missing { color: #222; background: #f4f4f4; padding: .4em .8em }
tr:target { background: #fff3c4 } .plot { break-inside: avoid } table { font-size: 13px }
@media print { .modebar { display: none } } footer { border-top: 1px solid #ccc; color: #444 }
"""


def check(spec: Report, where: str = "report") -> list[Figure] | None:
    """The figures that the section `report` of a study names; None: it leaves them to us. Raises RunError, in one line,
    for a key, a kind or a value that is not one. where: what a message calls the section."""
    if not isinstance(spec, Mapping):
        raise RunError(f"{where} is {show(spec)}; expected {', '.join(KEYS)}")
    for key in spec:
        if key not in KEYS:
            raise RunError(f"{where}.{key} is no key of a report; the nearest is {nearest(str(key), list(KEYS))}")
    for key in ("title", "text"):
        if not isinstance(spec.get(key, ""), str):
            raise RunError(f"{where}.{key} is {show(spec.get(key))}; expected text")
    for key in ("figures", "fits", "plugins"):
        if not isinstance(spec.get(key, []), list):
            raise RunError(f"{where}.{key} is {show(spec.get(key))}; expected a list")
    take([str(entry) for entry in spec.get("plugins", [])], where)
    if "figures" not in spec:
        return None
    return [figure(one, f"{where}.figures[{i}]") for i, one in enumerate(spec["figures"])]


def report(
    rows: Sequence[Row], fits: Sequence[Mapping[str, object]], spec: Report, out: Path, command: str = ""
) -> None:
    """Write index.html, cells.csv and fits.json to the folder `out`. spec: the study's section `report`; command: what
    the page says that made it. Raises RunError for a section that is not one, and for files in the folder that are not
    as a report left them.

    The page comes last, with the digests of the others, by which they are known again.
    """
    figures = check(spec)
    if not rows:
        raise RunError("the study has no cells, and so nothing to report; run `tdformer scale run` first")
    cells = Cells(rows, fits)
    if figures is None:
        figures = [one for kind in FIGURES for one in FIGURES.get(kind).default(cells)]
    if not any(_is_index(one) for one in figures):
        figures.append(Summary())
    beside = {CELLS: to_csv(rows).encode(), FITS: _json(fits)}
    _check_place(out, beside)
    text = _page(cells, figures, spec, command)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, content in beside.items():
        write_atomic(out / name, content)
    write_atomic(out / INDEX, marks.marked(".html", text, beside.values()).encode())


def _is_index(one: Figure) -> bool:
    """Whether a figure is a table of all cells, to whose lines the points of all figures lead."""
    return isinstance(one, Summary) and not one.where


def _json(fits: Sequence[Mapping[str, object]]) -> bytes:
    return (json.dumps([json.loads(to_json(fit)) for fit in fits], indent=1) + "\n").encode()


def _check_place(out: Path, beside: Mapping[str, bytes]) -> None:
    """Raises RunError where a file that we did not write, or that was changed since, would be lost."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is there and no folder; name another one with --out")
    with disk_errors(out):
        others = marks.others(out / INDEX, {out / name: content for name, content in beside.items()})
    if others:
        raise RunError(
            f"{others[0]} is there, and not as a report was left; name another folder with --out, or remove it"
        )


def _page(cells: Cells, figures: Sequence[Figure], spec: Report, command: str) -> str:
    title = page.text(spec.get("title") or "Study")
    scripts = [page.plotly(), page.SCRIPT]
    index = next(one for one in figures if _is_index(one))
    body = "".join(_section(cells, one, number, one is index) for number, one in enumerate(figures, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{page.policy(scripts)}"/>\n'
        '<meta name="viewport" content="width=device-width"/>\n<meta name="generator" content="tdformer"/>\n'
        f"<title>{title}</title>\n<style>{page.STYLE}{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{_paragraph(spec.get('text', ''))}<p>{page.text(_about(cells))}</p>\n"
        '<noscript><p class="missing">Figures are drawn by a script, and this browser runs none. The table has the '
        "numbers.</p></noscript>\n"
        f"{body}{_provenance(cells, command)}"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _about(cells: Cells) -> str:
    """How many cells, by state."""
    states: dict[str, int] = {}
    for row in cells.rows:
        state = "simulated" if row.get("simulated") else str(row.get("state") or "unknown")
        states[state] = states.get(state, 0) + 1
    count = f"{len(cells.rows)} cell{'s' if len(cells.rows) > 1 else ''}: "
    axes = ", ".join(key.removeprefix("axis.") for key in cells.varying if not is_seed(key))
    return count + ", ".join(f"{n} {state}" for state, n in states.items()) + (f". Axes: {axes}." if axes else ".")


def _section(cells: Cells, one: Figure, number: int, index: bool) -> str:
    try:
        drawn = one.draw(cells.where(one.where))
        inner = _plot(drawn, one.heading(), number) if isinstance(drawn, Plot) else _table(drawn, index)
    except Nothing as nothing:
        inner = f'<p class="missing">{page.text(str(nothing))}.</p>\n'
    return f"<section>\n<h2>{page.text(one.heading())}</h2>\n{_paragraph(one.text)}{inner}</section>\n"


def _plot(drawn: Plot, title: str, number: int) -> str:
    note = f'<p class="line">{page.text(drawn.note)}</p>\n' if drawn.note else ""
    return page.plot(f"figure-{number}", title, {"data": drawn.traces, "layout": drawn.layout}, drawn.height, note)


def _table(drawn: Table, index: bool) -> str:
    """index: whether its lines are what points lead to."""
    lines = []
    for number, values in enumerate(drawn.body):
        mark = f' id="cell-{number}"' if index else ""
        lines.append(f"<tr{mark}>{''.join(_cell(value) for value in values)}</tr>\n")
    head = "".join(f"<th>{page.text(name)}</th>" for name in drawn.head)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{"".join(lines)}</table></div>\n'


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return page.cell(page.text("" if value is None else value if isinstance(value, str) else show(value)), "name")
    if isinstance(value, int) and abs(value) < 1e9:
        return page.cell(f"{value:,}")
    return page.cell(f"{value:.4g}")


def _paragraph(text: str) -> str:
    return f"<p>{page.text(' '.join(text.split()))}</p>\n" if text.strip() else ""


def _provenance(cells: Cells, command: str) -> str:
    facts = []
    for key, words in (("revision", "Revision"), ("machine", "Machine"), ("date", "Date")):
        found = sorted({str(row[key]) for row in cells.rows if row.get(key) is not None})
        if key == "date" and len(found) > 1:
            found = [f"{found[0]} to {found[-1]}"]
        facts += [f"{words}{'s' if len(found) > 1 else ''}: {', '.join(found)}"] if found else []
    facts += [f"Made by {command}"] if command else []
    facts.append("Hollow marks and bars are simulated, not run" if any(r.get("simulated") for r in cells.rows) else "")
    said = "".join(f"<br/>{page.text(fact)}." for fact in facts if fact)
    return (
        f"<footer><p>The table with all columns is {CELLS} beside this page, the fits are {FITS}.{said}</p></footer>\n"
    )
