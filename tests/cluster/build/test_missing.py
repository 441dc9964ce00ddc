"""Data that nobody has written yet: the line has the command that writes them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from commands import refused

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"


def test_data_that_nobody_has_written_names_the_command_that_does(cli: Any, tmp_path: Path):
    line = refused(cli("train", CONFIGS / "digits.yaml", "data.root=my shards"))
    assert line.startswith("my shards/train/index.json is missing: no shards are there yet; write them with: ")
    command = line.rpartition("write them with: ")[2]
    assert command == "tdformer shard digits 'my shards'"
    assert cli(*shlex.split(command)[1:]).returncode == 0
    ffcv = refused(cli("train", CONFIGS / "digits.yaml", "data.root=my shards", "data.format=ffcv"))
    assert ffcv.endswith("tdformer shard digits 'my shards' --to ffcv")
    (tmp_path / "mine.yaml").write_text("data: {dataset: folder, source: /my/pictures}")
    given = refused(cli("train", "mine.yaml"))
    assert given.endswith("tdformer shard folder data/folder --source /my/pictures")
    asked = refused(cli("launch", CONFIGS / "digits.yaml", "--where", "local", "data.dataset=cifar10"))
    assert asked.endswith(f"tdformer shard cifar10 {tmp_path}/data/cifar10 --source FOLDER_OF_THE_RAW_FILES")
