"""The one error that the model package raises for input that cannot work."""

from __future__ import annotations


class ModelError(ValueError):
    """One line: what is wrong, where, and what to do."""
