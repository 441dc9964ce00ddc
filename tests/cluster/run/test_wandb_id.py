"""The ids of runs at wandb."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.run.wandb_id import identity, note_sent, sent


def _copied(folder: Path) -> Path:
    return Path(shutil.copytree(folder, folder.with_name("copy")))


def test_ids_of_wandb_written_before_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "wandb_id").write_text("0a1b2c3d")
    note_sent(folder, 5)
    assert identity(folder) == identity(folder) == "0a1b2c3d" and sent(folder) == 5
    assert identity(RunFolder(_copied(folder.path))) != "0a1b2c3d"
    for damaged in (b"\xff\xfe", b'{"id": 5}', b"../x", b'{"id": "0a1b'):
        (folder.path / "wandb_id").write_bytes(damaged)
        with pytest.raises(RunError, match="wandb_id .*delete it"):
            identity(folder)
