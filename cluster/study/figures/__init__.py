"""Figures of a study by kind: each file registers the kinds that it draws, in the order that a report has them."""

from . import scaling, stacked, predicted, fitted, paired, curve, summary  # noqa: F401, I001 - the order of a report
from .base import FIGURES as FIGURES
