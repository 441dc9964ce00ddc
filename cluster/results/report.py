"""An evaluation as one page of HTML that needs nothing else: accuracy of each class, and what is taken for what.

The numbers are in the page too, as JSON in the element `numbers`. It is well-formed XML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import RunError
from ..run.records import write_atomic
from ..train.tally import Tally
from . import page
from .marks import is_ours, marked

WHOLE = 40
"""The confusion matrix of more classes is listed by its largest entries."""
LARGEST = 100


def check(path: Path) -> None:
    """Raises RunError where a report cannot go: no folder, or a file that is not a report as it was written."""
    if path.suffix != ".html":
        raise RunError(f"{path}: a report is a page of HTML; end its name with .html")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder to write {path.name} to")
    if path.exists() and not is_ours(path):
        raise RunError(f"{path} is there, and not as a report was left; name another file, or remove that one")


def write(path: Path, row: Mapping[str, object], tally: Tally) -> None:
    """Write the page. row: what the evaluation says in its line."""
    write_atomic(path, marked(path.suffix, _page(row, tally)).encode())


def _page(row: Mapping[str, object], tally: Tally) -> str:
    matrix = tally.confusion.tolist()
    shown = [k for k in range(len(matrix)) if k < len(tally.names) or any(r[k] for r in matrix) or any(matrix[k])]
    names = {k: page.text(tally.name(k)) for k in shown}
    source = page.text(str(row.get("checkpoint") or row.get("file")))
    facts = {"Samples": f"{row['samples']:,}", "Accuracy": f"{row['accuracy']:.2%}"}
    facts |= {"Among the 5 likeliest": f"{row['top5']:.2%}"} if "top5" in row else {}
    facts |= {"Loss": f"{row['loss']:.4f}"}
    numbers = {"row": row, "classes": [tally.name(k) for k in range(len(matrix))], "confusion": _entries(matrix)}
    whole = len(shown) <= WHOLE
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta name="generator" content="tdformer"/>\n<title>Evaluation of {source}</title>\n'
        f"<style>{page.STYLE}</style>\n</head>\n<body>\n<h1>Evaluation</h1>\n<p>{source}</p>\n"
        f"{page.table([], [[page.head_cell(k), page.cell(v)] for k, v in facts.items()])}<h2>Classes</h2>\n"
        f"{page.table(['Class', 'Samples', 'Accuracy', 'Most often taken for'], _classes(matrix, names))}"
        + ("<h2>Confusion matrix</h2>\n<p>Rows: the class; columns: what it was taken for.</p>\n" if whole else "")
        + (page.table(["", *names.values()], _matrix(matrix, names)) if whole else _largest(matrix, names))
        + f'<script type="application/json" id="numbers">{page.embedded(numbers)}</script>\n</body>\n</html>\n'
    )


def _classes(matrix: list[list[int]], names: Mapping[int, str]) -> list[list[str]]:
    rows = []
    for k, name in names.items():
        count, right = sum(matrix[k]), matrix[k][k]
        other = max((j for j in names if j != k), key=lambda j: matrix[k][j], default=k)
        wrong = f"{names[other]} ({matrix[k][other]})" if other != k and matrix[k][other] else ""
        share = f"{right / count:.1%}" if count else ""
        rows.append([page.head_cell(name), page.cell(f"{count:,}"), page.cell(share), page.cell(wrong, "name")])
    return rows


def _matrix(matrix: list[list[int]], names: Mapping[int, str]) -> list[list[str]]:
    rows = []
    for k, name in names.items():
        cells = []
        for j in names:
            share = matrix[k][j] / max(1, sum(matrix[k]))
            colour = "0, 110, 180" if j == k else "210, 90, 0"
            style = f' style="background: rgba({colour}, {0.7 * share:.3f})"' if matrix[k][j] else ""
            cells.append(f"<td{style}>{matrix[k][j] or ''}</td>")
        rows.append([page.head_cell(name), *cells])
    return rows


def _largest(matrix: list[list[int]], names: Mapping[int, str]) -> str:
    """The confusions with most samples."""
    wrong = sorted((e for e in _entries(matrix) if e[0] != e[1]), key=lambda e: -e[2])[:LARGEST]
    rows = [[page.head_cell(names[k]), page.cell(names[j], "name"), page.cell(f"{n:,}")] for k, j, n in wrong]
    return f"<h2>Largest confusions</h2>\n{page.table(['Class', 'Taken for', 'Samples'], rows)}"


def _entries(matrix: list[list[int]]) -> list[tuple[int, int, int]]:
    """The numbers of a class and of what it was taken for, and how often, where that is not 0."""
    return [(k, j, n) for k, of in enumerate(matrix) for j, n in enumerate(of) if n]
