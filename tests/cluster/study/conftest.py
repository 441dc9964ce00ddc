"""What tests of studies share: shards, a study that lies on the disk, and a Slurm that answers as it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from forked_study import SETTINGS
from stand_in_slurm import asked, shards, site

from cluster.build.shards import write_shards
from cluster.study.folder import CellFolder, StudyFolder
from cluster.study.usage import Use

__all__ = ["asked", "shards", "site"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a small study of digits, whose shards are there."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards("digits", folder)
    return SETTINGS.replace("SHARDS", str(folder))


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """A study that was begun, without cells."""
    folder = StudyFolder(tmp_path / "s")
    for place in (folder.code, folder.logs, folder.arrays):
        place.mkdir(parents=True)
    folder.file.write_text("name: s\nconfig: digits\ntries: 2\nat_once: 2\ngrid: {seed: [0, 1]}\n")
    (folder.code / "revision.json").write_text('{"commit": "0123456789abcdef", "dirty": false}')
    return folder


@pytest.fixture
def cell(study: StudyFolder) -> Callable[..., CellFolder]:
    """Makes a cell of it, of 10 steps and 80 images on two processes; seconds: that its start took."""

    def make(name: str, seconds: float = 0.0, **axes: object) -> CellFolder:
        folder = CellFolder(study.path / "cells" / name)
        (folder.path / "usage").mkdir(parents=True)
        facts = {"digest": f"of {name}", "axes": axes, "nodes": 1, "processes": 2, "gpus": 0, "steps": 10, "images": 80}
        folder.run.cell_file.write_text(json.dumps(facts | {"revision": "r", "plan": {"predicted.seconds_step": 3.0}}))
        if seconds:
            use = Use(world=2, host="here", pid=1, began=0.0, last=seconds, beat=2.0, ended=True)
            (folder.path / "usage" / "1.json").write_text(json.dumps(asdict(use)))
        return folder

    return make
