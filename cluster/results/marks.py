"""Marks by which files that we wrote for people are known again: each page has its own digest in it, and may have those
of the files beside it. A file that was changed since, or that another wrote, is never replaced."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Kind:
    """How a kind of file has digests in it. own: that of all the rest; beside: those of other files; at: where."""

    own: str
    beside: str
    at: Callable[[str], int]


_KINDS = {
    ".html": _Kind(
        '<meta name="sha256" content="{}"/>\n',
        '<meta name="beside" content="{}"/>\n',
        lambda page: page.find("<title>"),
    ),
    ".md": _Kind("<!-- sha256 {} -->\n", "\n<!-- beside {} -->\n", len),
    ".json": _Kind('"sha256": "{}", ', '"beside": "{}", ', lambda page: page.find("{") + 1),
}
SUFFIXES = tuple(_KINDS)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def marked(suffix: str, text: str, beside: Iterable[bytes] = ()) -> str:
    """A page with the digests of the contents `beside` it, and with its own. A page of HTML has a <title>, one of JSON
    is an object with something in it."""
    kind = _KINDS[suffix]
    if others := " ".join(map(digest, beside)):
        text = _put(text, kind.at, kind.beside.format(others))
    return _put(text, kind.at, kind.own.format(digest(text.encode())))


def _put(text: str, at: Callable[[str], int], line: str) -> str:
    place = at(text)
    return text[:place] + line + text[place:]


def is_ours(path: Path) -> bool:
    """Whether a file is a page that we marked and nobody has changed."""
    return _read(path) is not None


def _read(path: Path) -> str | None:
    """A page that is ours, without its own mark."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return None
    mark = re.escape(_KINDS[path.suffix].own).replace(re.escape("{}"), "[0-9a-f]{64}")
    rests = (text[: found.start()] + text[found.end() :] for found in re.finditer(mark, text))
    return next((rest for rest in rests if marked(path.suffix, rest) == text), None)


def others(page: Path, beside: Mapping[Path, bytes | None]) -> list[Path]:
    """Of a page and the files beside it, those that are there and not as we left them. beside: with what will be
    written, which may be there already; None: not known yet. Raises OSError for what cannot be read."""
    text, found = _read(page), []
    if text is None and page.exists():
        found.append(page)
    line = re.escape(_KINDS[page.suffix].beside).replace(re.escape("{}"), "([0-9a-f ]*)")
    known = last[-1].split() if text is not None and (last := re.findall(line, text)) else []
    for path, content in beside.items():
        if path.exists() and (there := path.read_bytes()) != content and digest(there) not in known:
            found.append(path)
    return found
