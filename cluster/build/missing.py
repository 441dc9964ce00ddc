"""Data that nobody has written yet: the command that does, for this very configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.store.index import INDEX

from ..config import Config
from ..errors import RunError

RAW_FILES = "FOLDER_OF_THE_RAW_FILES"


def check_written(config: Config, folder: Path, split: str) -> None:
    """Raises RunError with that command where `folder` has no split at all, or shards without the copy asked for.
    What is there in part is damaged, which its reader says."""
    if not any(folder.glob(f"[!.]*/{INDEX}")):
        command = _command(config, folder)
        raise RunError(f"{folder / split / INDEX} is missing: no shards are there yet; write them with: {command}")
    if (copy := config.data.form.missing(folder / split)) is not None:
        command = shlex.join(["tdformer", "shard", config.data.dataset, str(folder), "--to", config.data.format])
        raise RunError(f"{copy} is missing: the shards have no copy yet; write it with: {command}")


def _command(config: Config, folder: Path) -> str:
    data = config.data
    words = ["tdformer", "shard", data.dataset, str(folder)]
    if data.source is not None:
        words += ["--source", data.source]
    elif not _is_at_hand(data.dataset):
        words += ["--source", RAW_FILES]
    return shlex.join(words + ["--to", data.format] * (data.form.copy is not None))


def _is_at_hand(dataset: str) -> bool:
    """Whether its raw files are where they usually are, so that nobody has to say where. Raises DataError for a data
    set that there is not."""
    known = catalog.get(dataset)
    try:
        known.open(known.splits[0])
    except DataError:
        return False
    return True
