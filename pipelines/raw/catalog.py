"""The data sets by name: ours, which register as they are imported here, and those of others."""

from __future__ import annotations

from . import cifar, digits, event_sets, fashion_mnist, folders, imagenet, recorded  # noqa: F401
from .source import DATASETS, Dataset

__all__ = ["DATASETS", "get"]


def get(name: str) -> Dataset:
    """A data set by name. Raises DataError with the nearest name."""
    return DATASETS.get(name)
