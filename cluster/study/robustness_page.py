"""The table of `robustness` as Markdown, and as a file by which it is known again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..results import marks
from ..run.records import to_json, write_atomic


def markdown(of: Mapping[str, Any]) -> str:
    """The table as a page of Markdown, in percent."""
    names, pairs = [group["name"] for group in of["groups"]], [pair["name"] for pair in of["comparisons"]]
    severities = ", ".join(map(str, of["severities"]))
    lines = [
        f"Accuracy in percent on {of['images']:,} pictures of {of['pictures']}; severities {severities}; differences "
        "with 90 % intervals over seeds.",
        "",
        *(f"- {note}" for note in of["notes"]),
        "",
        *_lines(("", *names, *pairs), [_row(row, names, pairs) for row in of["rows"]]),
    ]
    if pairs:
        sets = list(of["comparisons"][0]["mce"])
        head = ("feedback - none", "seeds", "difference", "p", "p by Holm", *(f"mCE, {name}" for name in sets))
        body = [
            (
                pair["name"],
                str(len(pair["seeds"])),
                _difference_words(pair["difference"]),
                _p((pair["difference"] or {}).get("p")),
                _p(pair["p_holm"]),
                *(_error_words(pair["mce"][name]) for name in sets),
            )
            for pair in of["comparisons"]
        ]
        lines += [
            "",
            "Differences of the mean over kinds; mCE in percent of the errors of the same seed without feedback, below "
            "100 where feedback has fewer.",
            "",
            *_lines(head, body),
        ]
    return "\n".join(lines) + "\n"


def _row(row: Mapping[str, Any], names: Sequence[str], pairs: Sequence[str]) -> tuple[str, ...]:
    means = (f"{100 * row['groups'][name]['value']:.2f}" for name in names)
    return (row["row"], *means, *(_difference_words(row["differences"][name]) for name in pairs))


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---", *("---:",) * (len(head) - 1)), *body)]


def _difference_words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "no seed in both"
    words = f"{100 * found['value']:+.2f}"
    return words if found["low"] is None else f"{words} [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"


def _error_words(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    words = f"{100 * found['value']:.2f}"
    return words if found["low"] is None else f"{words} [{100 * found['low']:.2f}, {100 * found['high']:.2f}]"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def check_place(path: Path) -> None:
    """Raises RunError where a table cannot go: another suffix, no folder, or a file that is not as we left it."""
    if path.suffix not in (".md", ".json"):
        raise RunError(f"{path}: a table is Markdown or JSON; end its name with .md or .json")
    if not path.parent.is_dir():
        raise RunError(f"{path.parent}: no such folder to write {path.name} to")
    if path.exists() and not marks.is_ours(path):
        raise RunError(f"{path} is there, and not as a table was left; name another file, or remove that one")


def write(path: Path, of: Mapping[str, Any]) -> None:
    """As its suffix says, with its own digest, by which it is known again."""
    text = markdown(of) if path.suffix == ".md" else to_json(of)
    write_atomic(path, marks.marked(path.suffix, f"{text}\n").encode())
