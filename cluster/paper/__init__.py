"""The paper's figures, and others of their kind, drawn from what runs have learned: a registry, and a file for each."""

from . import attention, gradients, information, network, sensitivity  # noqa: F401 - they register themselves
from .figure import FIGURES, Drawn, Figure
from .making import make

__all__ = ["FIGURES", "Drawn", "Figure", "make"]
