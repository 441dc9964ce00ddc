"""A run that several commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import user_command

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
