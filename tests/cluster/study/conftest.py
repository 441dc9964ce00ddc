"""What tests of studies share."""

from __future__ import annotations

import pytest
from forked_study import SETTINGS

from cluster.build.shards import write_shards


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a small study of digits, whose shards are there."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards("digits", folder)
    return SETTINGS.replace("SHARDS", str(folder))
