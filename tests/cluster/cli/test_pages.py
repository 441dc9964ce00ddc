"""Help pages."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from forked import Command

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal_and_calls_things_by_their_names(tmp_path: Path, columns: int):
    def page(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns)}
        done = Command(*words, "--help", cwd=tmp_path, env=environment).completed()
        assert done.returncode == 0 and max(map(len, done.stdout.splitlines())) <= columns, words
        assert not re.search("<[a-z]| range", done.stdout), words
        return done.stdout

    _, *groups = re.split("^[A-Z][a-z]+:\n", page(), flags=re.MULTILINE)  # the first: options
    listed = re.findall("^  ([a-z]+) ", "".join(groups[1:]), re.MULTILINE)
    assert {"train", "launch", "shard", "models", "config"} < set(listed) and "..." not in "".join(groups)
    for command in listed:
        page(command)
    assert "--val-share SHARE" in page("shard", "write") and "--resolved" in page("config", "show")
