"""What pages of HTML that we write have in common: text that cannot become markup, and a mark by which we know them."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run.records import to_json

_DIGEST = re.compile(r'<meta name="sha256" content="([0-9a-f]{64})"/>')
STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 2em } .wide { overflow-x: auto }
th, td { border: 1px solid #ccc; padding: .2em .6em; text-align: right } th { font-weight: 600; background: #f4f4f4 }
.name { text-align: left }
"""


def marked(page: str) -> str:
    """A page, which has a <title>, with its own digest in it."""
    digest = hashlib.sha256(page.encode()).hexdigest()
    return page.replace("<title>", f'<meta name="sha256" content="{digest}"/>\n<title>', 1)


def ours(path: Path) -> bool:
    """Whether a file is a page that we marked and nobody has changed."""
    try:
        page = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    found = _DIGEST.search(page)
    return found is not None and hashlib.sha256(page.replace(f"{found[0]}\n", "", 1).encode()).hexdigest() == found[1]


def text(words: str) -> str:
    """As a page can have it."""
    return html.escape(printable(words))


def printable(words: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in words)


def embedded(numbers: Mapping[str, Any]) -> str:
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
