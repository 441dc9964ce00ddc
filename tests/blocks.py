"""The code blocks of a page, and a reader who does what they say.

A block of commands (no language) is run by bash; `tdformer` in it is this tree's. A block whose first line is
`# NAME.py` or `# NAME.yaml` is written to that file; other Python is run, other YAML is read as a configuration. `text`
is what something prints. `<!-- not run: REASON -->` on the line before a block, which readers do not see, says why it
cannot be run here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from forked import PYTHON, TDFORMER, Door

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *ROOT.glob("docs/*.md")])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- not run: (.+?) -->\n\Z")
_NAMED = re.compile(r"# ([\w/-]+\.(?:py|yaml))(?:,.*)?\n")


def script(name: str) -> ModuleType:
    """What makes a part of the pages: `.ci/docs/NAME.py`, as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_page", ROOT / ".ci" / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    why_not: str = ""
    """Why it is not run here; empty: it is."""

    @property
    def file(self) -> str:
        """The name that its first line gives it, or nothing."""
        named = _NAMED.match(self.text)
        return named[1] if named and self.language in ("python", "yaml") else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """In order, those that are nothing but output left out."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _MARK.search(before)
        if found[1] != "text":
            yield Block(page, before.count("\n") + 1, found[1], found[2], mark[1] if mark else "")


class Reader:
    """Does what blocks say, one after the other, in one folder."""

    def __init__(self, folder: Path, anew: bool = False) -> None:
        """anew: each `tdformer` and `python` begins an interpreter, as a reader's does; else they are forked."""
        self.folder = folder
        self.bin = folder / ".bin"
        self.bin.mkdir()
        if not anew:
            self.door = Door(self.bin, tdformer=TDFORMER, python=PYTHON)
            return
        for name, words in (("tdformer", "-m cluster.cli"), ("python", "")):
            program = self.bin / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            program.chmod(0o755)

    def do(self, block: Block) -> str:
        """What it printed; nothing where it is a file. Raises AssertionError where a command fails."""
        if block.file:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(block.text)
            return ""
        if not block.language:
            return self.shell(block.text)
        (self.folder / ".block.py").write_text(block.text)
        return self._run(str(self.bin / "python"), ".block.py")

    def shell(self, commands: str) -> str:
        return self._run("bash", "-euo", "pipefail", "-c", commands)

    def _run(self, *words: str) -> str:
        env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 1700}
        done = subprocess.run(words, cwd=self.folder, env=env, check=False, **how)
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout}"
        return done.stdout
