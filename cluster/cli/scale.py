"""Studies: many runs of one grid."""

from __future__ import annotations

from .pages import Group, Page
from .scale_report import report

group = Group("Study")
scale = group.below("scale", "Run a grid of configurations, and see how it scales.", "Run and look at studies.")
scale.command("report", cls=Page, short_help="Draw a study as a page.")(report)
