"""An evaluation as one page of HTML that needs nothing else: accuracy of each class, and what is taken for what.

The numbers are in the page too, as JSON in the element `numbers`. It is well-formed XML.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..run.folder import write_atomic
from ..run.records import to_json
from ..train.tally import Tally

WHOLE = 40
"""The confusion matrix of more classes is listed by its largest entries."""
LARGEST = 100
_DIGEST = re.compile(r'<meta name="sha256" content="([0-9a-f]{64})"/>')
_STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 2em } .wide { overflow-x: auto }
th, td { border: 1px solid #ccc; padding: .2em .6em; text-align: right } th { font-weight: 600; background: #f4f4f4 }
.name { text-align: left }
"""


def check(path: Path) -> None:
    """Raises RunError where a report cannot go: no folder, or a file that is not a report as it was written."""
    if path.suffix != ".html":
        raise RunError(f"{path}: a report is a page of HTML; end its name with .html")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder to write {path.name} to")
    if path.exists() and not _ours(path):
        raise RunError(f"{path} is there, and not as a report was left; name another file, or remove that one")


def write(path: Path, row: Mapping[str, Any], tally: Tally) -> None:
    """Write the page. row: what the evaluation says in its line."""
    text = _page(row, tally)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(path, text.replace("<title>", f'<meta name="sha256" content="{digest}"/>\n<title>', 1).encode())


def _ours(path: Path) -> bool:
    """Whether a file is a report that nobody has changed."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    found = _DIGEST.search(text)
    return found is not None and hashlib.sha256(text.replace(f"{found[0]}\n", "", 1).encode()).hexdigest() == found[1]


def _page(row: Mapping[str, Any], tally: Tally) -> str:
    matrix = tally.confusion.tolist()
    shown = [k for k in range(len(matrix)) if k < len(tally.names) or any(r[k] for r in matrix) or any(matrix[k])]
    names = {k: _text(tally.name(k)) for k in shown}
    source = _text(str(row.get("checkpoint") or row.get("file")))
    facts = {"Samples": f"{row['samples']:,}", "Accuracy": f"{row['accuracy']:.2%}"}
    facts |= {"Among the 5 likeliest": f"{row['top5']:.2%}"} if "top5" in row else {}
    facts |= {"Loss": f"{row['loss']:.4f}"}
    numbers = {"row": row, "classes": [tally.name(k) for k in range(len(matrix))], "confusion": _entries(matrix)}
    whole = len(shown) <= WHOLE
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta name="generator" content="tdformer"/>\n<title>Evaluation of {source}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Evaluation</h1>\n<p>{source}</p>\n"
        f"{_table([], [[_head(k), _cell(v)] for k, v in facts.items()])}<h2>Classes</h2>\n"
        f"{_table(['Class', 'Samples', 'Accuracy', 'Most often taken for'], _classes(matrix, names))}"
        + ("<h2>Confusion matrix</h2>\n<p>Rows: the class; columns: what it was taken for.</p>\n" if whole else "")
        + (_table(["", *names.values()], _matrix(matrix, names)) if whole else _largest(matrix, names))
        + f'<script type="application/json" id="numbers">{_embedded(numbers)}</script>\n</body>\n</html>\n'
    )


def _classes(matrix: list[list[int]], names: Mapping[int, str]) -> list[list[str]]:
    rows = []
    for k, name in names.items():
        count, right = sum(matrix[k]), matrix[k][k]
        other = max((j for j in names if j != k), key=lambda j: matrix[k][j], default=k)
        wrong = f"{names[other]} ({matrix[k][other]})" if other != k and matrix[k][other] else ""
        share = f"{right / count:.1%}" if count else ""
        rows.append([_head(name), _cell(f"{count:,}"), _cell(share), _cell(wrong, "name")])
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
        rows.append([_head(name), *cells])
    return rows


def _largest(matrix: list[list[int]], names: Mapping[int, str]) -> str:
    """The confusions with most samples."""
    wrong = sorted((e for e in _entries(matrix) if e[0] != e[1]), key=lambda e: -e[2])[:LARGEST]
    rows = [[_head(names[k]), _cell(names[j], "name"), _cell(f"{n:,}")] for k, j, n in wrong]
    return f"<h2>Largest confusions</h2>\n{_table(['Class', 'Taken for', 'Samples'], rows)}"


def _entries(matrix: list[list[int]]) -> list[tuple[int, int, int]]:
    """The numbers of a class and of what it was taken for, and how often, where that is not 0."""
    return [(k, j, n) for k, of in enumerate(matrix) for j, n in enumerate(of) if n]


def _table(head: list[str], rows: list[list[str]]) -> str:
    first = f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>\n" if head else ""
    body = "".join(f"<tr>{''.join(cells)}</tr>\n" for cells in rows)
    return f'<div class="wide"><table>\n{first}{body}</table></div>\n'


def _head(text: str) -> str:
    return f'<th class="name">{text}</th>'


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{text}</td>' if kind else f"<td>{text}</td>"


def _text(text: str) -> str:
    """As a page can have it."""
    return html.escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


def _embedded(numbers: Mapping[str, Any]) -> str:
    """JSON that neither ends the element that it is in nor begins another."""
    text = to_json(numbers)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
