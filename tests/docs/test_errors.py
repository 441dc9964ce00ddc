"""docs/errors.md: each line that it quotes is one that the program can say."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
SHARE = 0.4
"""Of a quoted line without its names, what the fixed text of one message must cover. Made-up lines reach 0.35."""
NAME = re.compile(r"[0-9/'=_]|\w\.\w|^[A-Z_,]+$")


def quoted() -> Iterator[str]:
    """The lines in the first column of the tables."""
    for row in PAGE.read_text().splitlines():
        if row.startswith("| ") and "`" in (cell := row.split(" | ")[0]):
            yield from re.findall(r"`([^`]+)`", cell)


@functools.cache
def messages() -> list[list[str]]:
    """The fixed parts of every text in the code that is no docstring; scripts by lines."""
    found = [cut(text) for file in (ROOT / ".ci").glob("*.sh") for text in re.findall(r'"([^"]+)"', file.read_text())]
    for package in ("tdformer", "pipelines", "cluster"):
        for file in (ROOT / package).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(file.read_text())))
            within = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
            within |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
            for node in nodes:
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                if id(node) not in within and any(" " in text.strip() or len(texts) > 1 for text in texts):
                    found.append([piece for text in texts for piece in cut(text)])
    return found


def cut(text: str) -> list[str]:
    """A text of a script or a log without what is filled in."""
    return re.split(r"%\w|\$(?:\w+|{[^}]*})", text)


def covered(line: str, parts: list[str]) -> int:
    """Characters of `line` that the parts of a message cover, in order. The line may begin and end within one."""
    total = at = 0
    for part in parts:
        if len(part.strip()) < 2:
            continue
        if line in part:
            return len(line)
        if (place := line.find(part, at)) >= 0:
            total, at = total + len(part), place + len(part)
            continue
        begins = next((n for n in range(len(part), 0, -1) if line.startswith(part[-n:])), 0) if not at else 0
        ends = next((n for n in range(len(part), 0, -1) if line.endswith(part[:n])), 0)
        if ends >= max(begins, 2):
            return total + min(ends, len(line) - at)
        total, at = total + begins, at + begins
    return total


def share(line: str) -> float:
    """Of a line without names, numbers and what is in brackets, which others may have said, the share that one message
    covers; the least of the pieces between `...`."""
    shares = []
    for piece in (piece.strip(" ;:(") for piece in re.split(r"\.\.\.|\([^)]*\)?", line)):
        fixed = " ".join(word for word in piece.split() if not NAME.search(word))
        if len(fixed) > 7:
            shares.append(min(1.0, most(piece, SHARE * len(fixed)) / len(fixed)))
    return min(shares, default=1.0)


def most(piece: str, enough: float) -> int:
    """The most characters that one message covers; of those with the longest word where one of them covers enough, for
    to look through all takes 0.1 s."""
    word = max(piece.split(), key=len)
    near = [message for message in messages() if any(word in part for part in message)]
    found = max((covered(piece, message) for message in near), default=0)
    return found if found >= enough else max(covered(piece, message) for message in messages())


def test_every_quoted_line_is_said_somewhere() -> None:
    lines = [line for line in quoted() if not line.startswith("requires a different Python")]  # pip's
    assert len(lines) > 150
    assert {line: round(share(line), 2) for line in lines if share(line) < SHARE} == {}


@pytest.mark.parametrize("line", ["train.lr is not what it might be", "the disk has no more room for shards"])
def test_a_line_that_nobody_says_is_seen(line: str) -> None:
    assert share(line) < SHARE
