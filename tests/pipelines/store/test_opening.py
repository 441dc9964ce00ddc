"""A split is opened wherever it lies, and in whichever form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipelines
from pipelines.store import beton_writer as beton
from pipelines.store.beton import BetonDataset


def test_a_split_is_opened_wherever_it_lies(tmp_path: Path):
    folder = pipelines.write(pipelines.DATASETS.get("digits"), "test", tmp_path)
    cache = pipelines.Cache(tmp_path / "cache", 10**9)
    here, there = pipelines.open_split(folder), pipelines.open_split(folder.as_uri(), cache=cache)
    assert here.digest == there.digest and isinstance(there.folder, pipelines.Remote)
    assert np.array_equal(here.image(7), there.image(7))
    with pytest.raises(pipelines.DataError, match="test is not on this machine, and FFCV copies are read from a disk"):
        pipelines.open_split(folder.as_uri(), copy=True)
    pytest.importorskip("ffcv", exc_type=ImportError)
    beton.write(folder)
    copy = pipelines.open_split(folder, copy=True)
    assert isinstance(copy, BetonDataset) and np.array_equal(copy.image(7), here.image(7))
