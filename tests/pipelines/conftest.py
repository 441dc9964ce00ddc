"""Small data sets written for real: the digits, 100 a shard so that there are several."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.raw import catalog
from pipelines.store import tar_writer as shards
from pipelines.store.tars import TarDataset


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test digits as shards, for reading only."""
    root = tmp_path_factory.mktemp("digits")
    return shards.write(catalog.get("digits"), "test", root, samples_per_shard=100)


@pytest.fixture
def data(written: Path) -> TarDataset:
    return TarDataset(written)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """The same shards, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "copy"))
