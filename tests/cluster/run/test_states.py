"""The states of a run: the words of status.json, written in one place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cluster.jobs.status import table
from cluster.run.folder import RunFolder
from cluster.run.states import RunState

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("state", RunState)
def test_a_state_is_its_word_on_the_disk(state: RunState, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.tell(state, step=3)
    assert json.loads(run.status_file.read_bytes())["state"] == state.name.lower() == f"{state}"
    assert run.status()["state"] == state


def test_a_word_of_a_later_version_is_shown_as_it_is(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.tell(RunState.SAVED)
    run.status_file.write_text(run.status_file.read_text().replace('"saved"', '"dreaming"'))
    [row] = table(tmp_path)
    assert row["state"] == "dreaming"


def test_no_other_file_compares_or_tells_the_words() -> None:
    words = "|".join(RunState)
    said = re.compile(rf'([=!]= |in \((".*", )*|tell\()"({words})"')
    assert said.search('if state in ("a", "saved"):') and said.search('run.tell("running")')
    files = [path for name in ("cluster", "benchmarks", ".ci") for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in files if said.search(path.read_text())] == []
