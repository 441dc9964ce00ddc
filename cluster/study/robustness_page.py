"""The table of `robustness` as Markdown, and as a file by which it is known again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from ..errors import RunError
from ..results import marks
from ..run.records import to_json, write_atomic


class Interval(TypedDict):
    """A mean and its interval, where it has one."""

    value: float
    low: float | None
    high: float | None


class Compared(Interval):
    """A mean over pairs, and the p of its t-test."""

    pairs: int
    p: float | None


class Row(TypedDict):
    """Means over the seeds, by group, and their differences, by pair of groups."""

    row: str
    groups: dict[str, Interval]
    differences: dict[str, Compared | None]


class Pair(TypedDict):
    """A group with feedback and one without."""

    name: str
    fed: str
    base: str
    two_stages: bool
    seeds: list[int]
    difference: Compared | None
    p_holm: float | None
    mce: dict[str, Interval | None]


class Ran(TypedDict):
    """One run: accuracies on clean pictures, in the mean of the kinds, and of each kind by severity."""

    run: str
    seed: int
    step: int | None
    weights: str
    clean: float
    mean: float
    accuracy: dict[str, list[float]]


class Seeds(TypedDict):
    """A group."""

    name: str
    settings: dict[str, object]
    runs: list[Ran]


class Table(TypedDict):
    """All of it, as `robustness.table` makes it."""

    table: str
    pictures: str
    published: bool
    images: int
    kinds: list[str]
    severities: list[int]
    notes: list[str]
    groups: list[Seeds]
    rows: list[Row]
    comparisons: list[Pair]


def markdown(of: Table) -> str:
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
                _p(pair["difference"] and pair["difference"]["p"]),
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


def _row(row: Row, names: Sequence[str], pairs: Sequence[str]) -> tuple[str, ...]:
    means = (f"{100 * row['groups'][name]['value']:.2f}" for name in names)
    return (row["row"], *means, *(_difference_words(row["differences"][name]) for name in pairs))


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---", *("---:",) * (len(head) - 1)), *body)]


def _difference_words(found: Compared | None) -> str:
    return "no seed in both" if found is None else _with_interval(found, "+")


def _error_words(found: Interval | None) -> str:
    return "-" if found is None else _with_interval(found)


def _with_interval(found: Interval, sign: str = "") -> str:
    """In percent."""
    words, low, high = f"{100 * found['value']:{sign}.2f}", found["low"], found["high"]
    return words if low is None or high is None else f"{words} [{100 * low:{sign}.2f}, {100 * high:{sign}.2f}]"


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


def write(path: Path, of: Table) -> None:
    """As its suffix says, with its own digest, by which it is known again."""
    text = markdown(of) if path.suffix == ".md" else to_json(of)
    write_atomic(path, marks.marked(path.suffix, f"{text}\n").encode())
