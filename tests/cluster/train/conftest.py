"""A data set of few pictures, for tests of what happens around steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.raw import catalog
from pipelines.raw.arrays import ArrayDataset
from pipelines.store import tar_writer


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 70 digits to train on and 70 to evaluate on."""
    digits = catalog.get("digits")
    assert isinstance(digits, ArrayDataset)

    def few(split: str, source: Path | None) -> tuple[Any, Any]:
        images, labels = digits.load(split, source)
        return images[:70], labels[:70]

    folder = tmp_path_factory.mktemp("few")
    for split in digits.splits:
        tar_writer.write(replace(digits, load=few), split, folder)
    return folder
