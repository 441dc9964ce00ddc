"""The files of configs/, texts that look like other things, and the line of a configuration that is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from cluster import config as configs
from cluster.config import load
from cluster.config.schema import types
from cluster.errors import RunError
from pipelines.remote import is_remote

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(p for p in CONFIGS.rglob("*.yaml") if p.name[0] != "_" and p.parent.name != "studies")


def name_of(path: Path) -> str:
    """As a recipe is called."""
    return str(path.relative_to(CONFIGS).with_suffix(""))


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(RunError) as failure:
        load(path, overrides)
    line = str(failure.value)
    assert "\n" not in line
    return line


# What YAML 1.1 reads as another thing, and what is special to YAML, to OmegaConf or to a terminal.
NUMBERS = [
    *("007", "00123", "010", "0x10", "0o17", "0b1", "1_000", "1e3", "1.e+3", ".5", "+1", "-0", "12:00:00", "1:30"),
    *("190:20:30", "1-12", "2026-01-02", "2026-01-02T03:04:05Z", ".inf", "-.inf", "inf", "nan", ".NaN", "1,000"),
]
WORDS = [
    *(
        "true",
        "True",
        "yes",
        "Yes",
        "no",
        "NO",
        "on",
        "Off",
        "y",
        "n",
        "=",
        "<<",
        "???",
        "é",
        "日本",
        "🙂",
        "-",
        "?",
        ":",
    ),
    *(
        ",",
        "[",
        "]",
        "{",
        "}",
        "#",
        "&",
        "*",
        "!",
        "|",
        ">",
        "'",
        '"',
        "%",
        "@",
        "`",
        "[a]",
        "{a: 1}",
        "[0,1]",
        "a#b",
        "#a",
    ),
    *(
        "*a",
        "&a",
        "!a",
        "!!str",
        "%TAG",
        "@a",
        "`a",
        "${HOME}",
        "${oc.env:HOME}",
        r"\${x}",
        r"\\${x}",
        "$${",
        "${",
        "$HOME",
    ),
    *("\\", r"\n", "a\\", "---", "..."),
]
NULL = ["", "~", "null", "Null", "NULL"]
SPACED = [
    " ",
    "a: b",
    "a :b",
    "a #b",
    " a ",
    "a\nb",
    "a\r\nb\n",
    "\ta",
    "'a' b",
    '"a" b',
    "'a",
    "a\x85\u2028b",
]
SPACED += ["\ufeffa", "\x1b[0m", "pipe:aws s3 cp s3://b/{} - # x", "export A='b: ${C:-d}'", "a" * 300, "a b " * 60]
LOOKS_LIKE = NUMBERS + WORDS + NULL + SPACED
TEXTS = st.sampled_from(LOOKS_LIKE) | st.text().filter(lambda text: "\0" not in text)
TYPES = types()
TEXT_SETTINGS = sorted(
    key
    for key, (kind, limits) in TYPES.items()
    if kind in ("str", "str | None") and not {"choices", "registry"} & limits.keys()
)
TEXT_LISTS = sorted(
    key
    for key, (kind, limits) in TYPES.items()
    if kind in ("list[str]", "list[str] | None") and "registry" not in limits
)


def quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10**6).rstrip("\n")


def referring(text: str) -> str:
    """`text` where `${` is escaped, as OmegaConf reads it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def possible(key: str, text: str) -> bool:
    """Whether `check` lets it be."""
    if TYPES[key][1].get("form") is not None and text.startswith("~"):
        return False  # a home folder
    if key == "plugins":
        return False  # there is none of that name
    refused = {
        "name": text in ("", ".", "..") or "/" in text,
        "data.root": is_remote(text),
        "model.weights_sha256": True,  # 64 digits
        "site.sbatch": text.startswith("-"),
    }
    one_line = key in ("name", "runs_dir") or (key.startswith("site.") and key != "site.setup")
    return not refused.get(key, False) and not (one_line and "\n" in text)


def read_or_refused(path: Path | None, words: list[str]) -> None:
    try:
        config = load(path, words)
    except RunError as e:
        assert str(e) and len(str(e)) < 2000
        assert "\n" not in str(e)
    else:
        assert configs.stored(Path("m.pt.json"), (), configs.flat(config)) == config
