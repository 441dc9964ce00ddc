"""Pages of the reference that are made from the code: commands as their help says, settings as they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

DEFAULTS = Path(__file__).resolve().parents[2] / "configs" / "default.yaml"

# ---------------------------------------------------------------------------------------------------------- commands


def commands() -> str:
    """Each command, with the help that it prints itself."""
    import typer.main

    from cluster.cli.app import app

    return "\n".join(_helps(typer.main.get_command(app), None, "tdformer"))


def _helps(command: Any, parent: Any, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent, terminal_width=100, max_content_width=100)
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    for word in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, word)
        if not inner.hidden:
            yield from _helps(inner, context, word)


# ---------------------------------------------------------------------------------------------------------- settings

_KINDS = {
    "int": "whole number",
    "float": "number",
    "str": "text",
    "bool": "true, false",
    "None": "null",
    "list[int]": "list of whole numbers",
    "list[float]": "list of numbers",
    "list[str]": "list of texts",
    "tuple[float, float]": "two numbers",
    "dict[str, object]": "a section",
}
_LIMITS = {"least": "at least", "above": "above", "most": "at most", "below": "below"}


def settings() -> str:
    """Each setting: what it is from configs/default.yaml; type, default and limits from the schema."""
    from cluster import config as configs

    notes = comments(DEFAULTS.read_text())
    return "\n".join(_section("", configs.Config(), notes, configs.NEUTRAL))


def _section(prefix: str, section: Any, notes: dict[str, str], neutral: frozenset[str]) -> Iterator[str]:
    inner = [f for f in fields(section) if is_dataclass(getattr(section, f.name))]
    own = [f for f in fields(section) if f not in inner]
    title = f"`{prefix[:-1]}`" if prefix else "The run"
    yield f"## {title}\n\n{notes.get(prefix[:-1], '')}\n\n| setting | default | values | | |\n|---|---|---|---|---|"
    for f in own:
        key = prefix + f.name
        cells = [f"`{key}`", _code(getattr(section, f.name)), _values(f), "free" if key in neutral else ""]
        yield f"| {' | '.join([*cells, _cell(notes.get(key, ''))])} |"
    yield ""
    for f in inner:
        yield from _section(f"{prefix}{f.name}.", getattr(section, f.name), notes, neutral)


def _values(f: Field[Any]) -> str:
    """What a setting may be, in words."""
    from cluster.config.check import choices

    limits, known = f.metadata, choices(f.metadata)
    kinds = [_KINDS.get(kind, kind) for kind in str(f.type).split(" | ")]
    if known:
        many = [kind for kind in kinds if kind not in ("text", "whole number", "null")]
        words = [*(_code(c) for c in known), *many, *(["null"] if "null" in kinds else [])]
    else:
        words = ", ".join(kinds).split(", ")
    bounds = [f"{word} {limits[limit]}" for limit, word in _LIMITS.items() if limit in limits]
    return _cell(", ".join(words[:-1]) + (" or " if words[1:] else "") + words[-1] + "".join(f", {b}" for b in bounds))


def _code(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    return f"`{text}`"


def _cell(text: str) -> str:
    """As a cell of a table, with nothing in it taken for Markdown."""
    return re.sub(r"([|\[\]*])", r"\\\1", text).replace("<", "&lt;")


def comments(text: str) -> dict[str, str]:
    """The comment of each key of a YAML file: that of its line and of the lines after it that hold nothing else; of a
    section, also that of the lines right before it."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    key, before = "", ""
    for line in text.splitlines():
        if entry := re.match(r"( *)(\w+):.*?(?:\s#\s*(.*))?$", line):
            indent, name, comment = len(entry[1]), entry[2], entry[3] or ""
            path = [(i, n) for i, n in path if i < indent] + [(indent, name)]
            key = ".".join(n for _, n in path)
            found[key], before = (comment or before), ""
        elif comment := re.match(r"( *)# ?(.*)", line):
            if comment[1]:
                found[key] += " " + comment[2].strip()
            else:
                before = f"{before} {comment[2]}".strip()
        else:
            before = ""
    return found


MADE = {"commands": commands, "settings": settings}
