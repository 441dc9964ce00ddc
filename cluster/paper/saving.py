"""A figure as files: NAME.pdf, NAME.png, its numbers as NAME.csv, and NAME.md with the caption and where it is from.

The page has the digests of all four, by which they are known again (see results/marks.py). Equal numbers give equal
bytes: no file has a clock in it, or the version of what drew it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import RunError, disk_errors
from ..results import marks
from ..results.page import printable
from ..run.records import write_atomic
from .figure import Drawn
from .opening import Run

SUFFIXES = (".pdf", ".png", ".csv")


def contents(drawn: Drawn) -> dict[str, bytes]:
    """The drawing by the suffix of its files: .pdf with its fonts, .png, and .csv with its rows. Called with the style
    applied."""
    files = {".csv": _csv(drawn.rows).encode()}
    for suffix, nothing in ((".pdf", ("Creator", "Producer", "CreationDate")), (".png", ("Software",))):
        out = io.BytesIO()
        drawn.figure.savefig(out, format=suffix[1:], metadata=dict.fromkeys(nothing))
        files[suffix] = out.getvalue()
    return files


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Columns in the order in which rows first have them; lists and the like as JSON, None as nothing."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_word(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def _word(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def check_place(folder: Path, name: str) -> None:
    """Raises RunError where a figure of that name would go over a file that we did not write, or that was changed."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is there and no folder; name another one with --out")
    page = folder / f"{name}.md"
    with disk_errors(folder):
        others = marks.others(page, dict.fromkeys(map(page.with_suffix, SUFFIXES)))
    if others:
        raise RunError(
            f"{others[0]} is there, and not as figures left it; name another folder with --out, or remove it"
        )


def write(folder: Path, name: str, files: Mapping[str, bytes], page: str) -> None:
    """Write the files, then the page with their digests; see `check_place`. Raises RunError for a full disk."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for suffix, content in files.items():
        write_atomic(folder / f"{name}{suffix}", content)
    write_atomic(folder / f"{name}.md", marks.marked(".md", page, files.values()).encode())


def page(name: str, title: str, caption: str, rows: int, runs: Sequence[Run], command: str) -> str:
    """The caption as a page of Markdown, with what it was drawn from: runs, steps, revisions, data and dates."""
    head = ("run", "", "step", "test accuracy", "begun", "code", "data")
    lines = [head, ("---",) * len(head), *(_provenance(run) for run in runs)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"# {title}\n\n![{title}]({name}.png)\n\n{caption}\n\n"
        f"As vectors: [{name}.pdf]({name}.pdf); its numbers: [{name}.csv]({name}.csv), {rows:,} rows. Drawn by\n\n"
        f"    {_plain(command)}\n\nfrom\n\n{table}\n"
    )


def _provenance(run: Run) -> Sequence[str]:
    facts, data = run.facts, run.data
    accuracy = "not measured" if facts["accuracy"] is None else f"{facts['accuracy']:.2%}"
    code = ", ".join(_short(commit) for commit in facts["code"] or ()) or "not kept"
    seed = f"{run.label}, seed {run.config.seed}"
    of = f"{run.config.data.dataset}, {len(data):,} test samples, `{data.digest[:12]}`"
    return f"`{_plain(run.given)}`", seed, str(facts["step"]), accuracy, facts["began"] or "not kept", code, of


def _short(commit: str) -> str:
    """A revision by its beginning; + where files differed from it."""
    return f"`{commit[:12]}{'+' if commit.endswith('+') else ''}`"


def _plain(words: str) -> str:
    """Without what would end a code span, or a cell of a table."""
    return printable(words).replace("`", "'").replace("|", "\\|")
