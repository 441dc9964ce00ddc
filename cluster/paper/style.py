"""How all figures look: sizes of a printed page, a font that any machine has, colours that all tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

COLUMN, PAGE = 3.3, 6.8
"""Inches: the width of a figure in one column, and over both."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Those of Okabe and Ito, the strongest first."""
GREY, LIGHT = "#666666", "#e6e6e6"
_STYLE: dict[str, object] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.0,
    "ytick.labelsize": 6.0,
    "legend.fontsize": 6.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,  # whole letters, which can be searched and edited
    "savefig.dpi": 300,
}


@contextmanager
def applied() -> Iterator[None]:
    """While the block lasts matplotlib draws so, whatever the user's own settings are."""
    from cycler import cycler
    from matplotlib import style

    with style.context(["default", _STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}]):
        yield
