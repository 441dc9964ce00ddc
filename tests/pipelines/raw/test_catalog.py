"""Data sets by name: ours, and one that a file elsewhere registers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipelines.errors import DataError
from pipelines.raw import catalog
from pipelines.raw.source import DATASETS


def test_unknown_names_get_the_nearest():
    with pytest.raises(DataError, match="'fashion-mnist' is unknown; did you mean fashion_mnist"):
        catalog.get("fashion-mnist")
    with pytest.raises(DataError, match="no split 'val'; choose one of train, test"):
        catalog.get("digits").open("val")


def test_every_data_set_is_known_by_the_name_it_has():
    ours = ["fashion_mnist", "digits", "cifar10", "cifar100", "imagenet", "folder", "cifar10_dvs", "dvs128_gesture"]
    assert set(DATASETS.names()) == {*ours, "events"}
    assert [catalog.get(name).name for name in DATASETS.names()] == DATASETS.names()


def test_looking_up_a_data_set_is_quick_to_import():
    """What one data set alone needs is imported where it is read."""
    program = (
        "import sys; import pipelines.raw.catalog; print(*{'scipy', 'sklearn', 'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
