"""How figures look: colours that differ for the colour-blind and on paper, and never by colour alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ...results.page import text as escaped
from .base import Cells, Point, Series, Trace, shown

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C7A00")
"""Of Okabe and Ito, "Color Universal Design" (2008); their yellow, too pale for a line, is darker here."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
"""One fewer than colours, so that it takes long until both come again; stars are points that are held out."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
PATTERNS = ("", "/", "\\", "x", "-", "|", "+", ".")
GREY = "#666666"
LONGEST = 30
"""Letters of a name on an axis."""
BARS = "Error bars: lowest and highest of the repeats; of a single cell, quartiles over its steps where it has them."


def colour(style: int) -> str:
    return COLOURS[style % len(COLOURS)]


def marker(style: int, hollow: bool = False, size: int = 9) -> dict[str, object]:
    """hollow: of what is simulated."""
    symbol = SYMBOLS[style % len(SYMBOLS)]
    return {
        "symbol": f"{symbol}-open" if hollow else symbol,
        "color": colour(style),
        "size": size,
        "line": {"width": 1.5 if hollow else 0, "color": colour(style)},
    }


def line(cells: Cells, series: Series, points: Sequence[Point], axes: str = "", **more: object) -> Trace:
    """Points of a series with error bars, joined. axes: "" or the number of another pair of axes."""
    style = series.style
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escaped(series.legend),
        "legendgroup": series.legend,
        "x": [place(p.x) for p in points],
        "y": [p.y for p in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [p.high - p.y for p in points],
            "arrayminus": [p.y - p.low for p in points],
            "thickness": 1.2,
            "width": 4,
            "visible": any(p.high > p.low for p in points),
        },
        "marker": marker(style, series.simulated),
        "line": {"color": colour(style), "width": 1.5, "dash": DASHES[style % len(DASHES)]},
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        **described(cells, points),
        **more,
    }


def place(x: float | str) -> float | str:
    """As Plotly is given it."""
    return escaped(x) if isinstance(x, str) else x


def described(cells: Cells, points: Sequence[Point]) -> Trace:
    """What is said of each point, and which line of the table it leads to."""
    return {
        "hoverinfo": "text",
        "hovertext": [f"{p.y:.5g} at {escaped(shown(p.x))}<br>{cells.hover(p.rows)}" for p in points],
        "customdata": [cells.place(p.rows) for p in points],
    }


def plain_line(x: Sequence[float], y: Sequence[float], name: str, axes: str = "", **more: object) -> Trace:
    """What is no measurement, such as the ideal: grey, dashed."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "legendgroup": name,
        "x": list(x),
        "y": list(y),
        "line": {"color": GREY, "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
        "xaxis": f"x{axes}",
        "yaxis": f"y{axes}",
        **more,
    }


def axis(title: str, log: bool = False, values: Iterable[object] = (), **more: object) -> dict[str, object]:
    """title: not escaped; values: what is on it. Texts make it one of categories, and
    numbers decide the ticks of a logarithmic one."""
    found = list(dict.fromkeys(values))
    kind = "category" if any(isinstance(value, str) for value in found) else "log" if log else "linear"
    places = _ticks([value for value in found if isinstance(value, int | float)]) if kind == "log" else []
    ticks = {"tickvals": places, "ticktext": [f"{v:g}" for v in places]} if places else {}
    return {
        "title": {"text": escaped(title)},
        "type": kind,
        "automargin": True,
        "showline": True,
        "linecolor": "#444",
        "gridcolor": "#ddd",
        "zeroline": False,
        "ticks": "outside",
        **ticks,
        **(_short_names(found) if kind == "category" else {}),
        **more,
    }


def _ticks(values: Sequence[float]) -> list[float]:
    """Where a logarithmic axis is marked: at the values, if they are few and apart; else at 1, 2 and 5, but for much
    wider and much narrower ones, for which Plotly's own are better."""
    ends = sorted(value for value in values if value > 0)
    if ends and len(ends) <= 8 and all(b >= 1.25 * a for a, b in pairwise(ends)):
        return ends
    if not ends or not 5 < ends[-1] / ends[0] < 1000:
        return []
    first, last = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[-1]))
    round_ones = [digit * 10.0**power for power in range(first - 1, last + 1) for digit in (1, 2, 5)]
    return [one for one in round_ones if ends[0] / 2.5 <= one <= ends[-1] * 2.5]


def _short_names(values: Sequence[object]) -> dict[str, object]:
    """Names that are long take the room of the figure: they are shown by their beginning and end, a digest mostly."""
    names = [str(value) for value in values]
    if all(len(name) <= LONGEST for name in names):
        return {}
    short = [name if len(name) <= LONGEST else f"{name[: LONGEST - 10]}…{name[-9:]}" for name in names]
    return {"tickvals": [escaped(name) for name in names], "ticktext": [escaped(name) for name in short]}


ABOVE = {"orientation": "h", "y": 1.02, "yanchor": "bottom"}
"""A legend that leaves the room below the axis to names."""


def layout(x: dict[str, object], y: dict[str, object], **more: object) -> dict[str, object]:
    return {
        "xaxis": x,
        "yaxis": y,
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "font": {"family": "sans-serif", "size": 13, "color": "#222"},
        "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top"},
        "hoverlabel": {"align": "left"},
        "colorway": list(COLOURS),
        **more,
    }


def side_by_side(
    x: dict[str, object], y: dict[str, object], x2: dict[str, object], y2: dict[str, object], **more: object
) -> dict[str, object]:
    """Two panels."""
    return layout(
        {**x, "domain": [0, 0.45]},
        y,
        xaxis2={**x2, "domain": [0.57, 1], "anchor": "y2"},
        yaxis2={**y2, "anchor": "x2"},
        **more,
    )
