"""What README and docs tell a reader to type is what the program takes, and does, where it can be done here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from blocks import PAGES, ROOT, Block, Reader, blocks

from cluster import config as configs
from cluster.cli.app import app
from cluster.study.grid import points_of
from cluster.study.schema import read

TUTORIAL = ROOT / "docs" / "tutorial.md"
EXTEND = ROOT / "docs" / "extend.md"
"""Its configuration needs the package that the page makes."""
REPORT = ROOT / "docs" / "report.md"
"""Its YAML is a part of a study, which tests/cluster/study/test_report.py reads."""
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN_HERE = sorted({block.page for block in BLOCKS if not block.why_not and not block.file} - {TUTORIAL})
SETTING = re.compile(r"((?:model|data|train|engine|recompute|checkpoint|health|log|site)(?:\.[a-z_]+)+)(?:=.*)?$")
FILES = (".beton", ".json", ".jsonl", ".npz", ".yaml")
SPANS = [(page, span) for page in PAGES for span in re.findall(r"`([^`\n]+)`", page.read_text())]


def lines(block: Block) -> list[list[str]]:
    return [words for line in block.text.splitlines() if (words := shlex.split(line, comments=True))]


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters that a command gets from `words`, which are checked by the command line itself; nothing is run.
    Raises click's UsageError."""
    got: list[dict[str, Any]] = []

    def hold(command: Any) -> Any:
        if command.callback is not None:
            command.callback = lambda **given: got.append(given)
        for inner in getattr(command, "commands", {}).values():
            hold(inner)
        return command

    hold(typer.main.get_command(app)).main(words, prog_name="tdformer", standalone_mode=False)
    return got[-1] if got else {}


def check(words: list[str]) -> None:
    """Raises for a command, an option or a setting that does not exist, and for a value that it does not take."""
    given = parsed(words)
    recipe = configs.recipe(str(given.get("config") or ""))
    settings = [word for word in given.get("overrides") or () if "=" in word and not word.startswith("plugins=")]
    if words[0] == "import":
        settings = [f"model.{word}" for word in settings]
    configs.load(recipe if recipe.is_file() else None, settings)


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.language], ids=str)
def test_a_block_has_commands_that_are_there(block: Block) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for words in lines(block):
        program, *rest = words
        if program == "tdformer":
            check(rest)
        elif program == "make":
            assert rest[0] in targets
        elif block.why_not:
            assert Path(program).name == "python", f"{block}: {program} is checked by nothing"


def test_a_wrong_command_is_seen() -> None:
    check(["train", "digits", "train.epochs=2"])
    for wrong in ("trian digits", "train digits --procs 2", "train digits train.epoch=2", "train digits train.lr=fast"):
        with pytest.raises(Exception, match=r"(?i)no such|not a setting|expected"):
            check(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_a_sentence_are_there(page: Path) -> None:
    wrong, program = [], typer.main.get_command(app)
    for where, span in SPANS:
        if where != page or not span.startswith("tdformer ") or span.startswith("tdformer --") or "COMMAND" in span:
            continue
        command = program
        words = shlex.split(span)[1:]
        while words and hasattr(command, "commands"):
            command = command.commands.get(words[0], command.commands.get("write"))
            if command is None:
                break
            words = words[1:]
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if command is None or not {*options} <= {opt for p in command.params for opt in p.opts} | {"--help"}:
            wrong.append(span)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_a_page_names_are_there(page: Path) -> None:
    known = configs.flat(configs.Config())
    sections = {".".join(key.split(".")[: n + 1]) for key in known for n in range(key.count("."))}
    named = [
        found[1]
        for where, span in SPANS
        if where == page and (found := SETTING.match(span)) and not span.endswith(FILES)
    ]
    free = tuple(f"{key}." for key, value in known.items() if isinstance(value, dict))  # a backbone's own options
    assert [name for name in named if name not in known and name not in sections and not name.startswith(free)] == []


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "yaml" and b.page not in (EXTEND, REPORT)], ids=str
)
def test_yaml_is_a_configuration(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    if block.page.name == "studies.md":
        assert len(list(points_of(read(file)))) > 1
    elif block.file == "site.yaml" or block.page.name == "site.md":
        assert configs.load(None, site=file) != configs.Config()
    else:
        assert configs.load(file) != configs.Config()


@pytest.mark.timeout(1800)  # README trains; on a machine with much else to do that is long
@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_blocks_do_what_they_say(page: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path, anew=page.name == "README.md")  # what a first reader types
    for block in blocks(page):
        if not block.why_not and (block.language != "yaml" or block.file):
            reader.do(block)
