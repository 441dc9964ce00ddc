"""Studies: many runs of one grid."""

from __future__ import annotations

from .pages import Group
from .scale_report import report

group = Group("Study")
scale = group.below("scale", "Studies: many runs of one grid.", "Run a grid of runs, and see how they scale.")
scale.add("Draw a study as a page.")(report)
