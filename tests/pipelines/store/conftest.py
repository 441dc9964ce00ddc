"""Photographs of many sizes as shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.raw import catalog
from pipelines.store import tar_writer as shards


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of three classes as shards, each of its own size, smooth as photographs are."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog", "owl"):
            folder = root / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(20):
                height, width = rng.integers(40, 200, 2)
                coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
                coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=95)
    source = root / "source"
    return shards.write(catalog.get("folder"), "train", root / "out", source=source, samples_per_shard=25)


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photographs, tmp_path / "train"))
