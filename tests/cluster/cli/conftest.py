"""A run that several commands are tried on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import user_command
from typer.testing import CliRunner

from cluster.cli.app import app
from cluster.errors import RunError
from tdformer.errors import ModelError

SMALL = """\
name: small
model: {time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 250, threads: 1}
log: {every_steps: 2}
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits as shards and a small run that was trained, by the command."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(SMALL)
    for words in (["shard", "digits", "shards", "--samples-per-shard", "500"], ["train", "small.yaml"]):
        done = user_command(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command in an empty folder says in its one line, with nothing written."""

    def refused(*words: str) -> str:
        monkeypatch.chdir(tmp_path)
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, RunError | ModelError) and "\n" not in str(error)
        assert not any(tmp_path.iterdir())
        return str(error)

    return refused
