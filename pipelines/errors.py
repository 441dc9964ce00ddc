"""What the data package raises for data that cannot work."""

from __future__ import annotations


class DataError(Exception):
    """One line: what is wrong, where, and what to do."""


class DamagedSample(DataError):
    """The same of one sample, which training may pass over."""
