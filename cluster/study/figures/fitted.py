"""A fit: its points, its curve, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config.words import nearest, show
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, named
from .style import ABOVE, GREY, axis, colour, described, layout, marker


@FIGURES.register("fit")
@dataclass(frozen=True, kw_only=True)
class Fitted(Figure):
    """One of the study's fits, by its name. Above: measured and fitted; below: measured over fitted, in %. Points that
    the fit was not made from are named held out. An interval is drawn where its points have `low` and `high`."""

    fit: str = ""
    x: str = ""
    """What the axis is called, if not after a column."""
    y: str = ""

    def heading(self) -> str:
        return self.title or f"Fit: {self.fit}"

    def draw(self, cells: Cells) -> Plot:
        fit = self._chosen(cells.fits)
        found = [one for one in fit["points"] if _is_number(one["measured"]) and _is_number(one["fitted"])]
        if not found:
            raise Nothing(f"{fit['name']}: {fit.get('note') or 'no points'}")
        rows = {row.get("cell"): row for row in cells.rows}
        plain = all(_is_number(one["x"]) for one in found)  # of several x, the fitted value is what is on the axis
        places = [float(one["x"] if plain else one["fitted"]) for one in found]
        order = sorted(range(len(found)), key=lambda i: places[i])
        log = all(place > 0 for place in places) and max(places) > 8 * min(places)
        traces = self._curve([found[i] for i in order], [places[i] for i in order])
        for held in (False, True):
            mine = [i for i in order if bool(found[i].get("held_out")) == held]
            cell = [rows.get(found[i]["cell"], {"cell": found[i]["cell"]}) for i in mine]
            for simulated in (False, True):
                some = [(i, row) for i, row in zip(mine, cell, strict=True) if bool(row.get("simulated")) == simulated]
                traces += self._points(cells, found, places, some, held, simulated) if some else []
        title = self.x or named(str(fit.get("x") or "x")) if plain else "fitted"
        x = axis(title, log, places)
        off = axis("off by (%)", domain=[0, 0.28], zeroline=True, zerolinecolor=GREY, anchor="x")
        y = axis(self.y or named(str(fit.get("y") or "y")), log, [one["measured"] for one in found], domain=[0.36, 1])
        return Plot(traces, layout({**x, "anchor": "y2"}, y, yaxis2=off, legend=ABOVE), _said(fit), 560)

    def _chosen(self, fits: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        names = [str(fit["name"]) for fit in fits]
        if not fits:
            raise Nothing("the study has no fits yet; name them in its report, under fits")
        if self.fit not in names:
            raise Nothing(f"there is no fit {show(self.fit)}; the nearest is {nearest(self.fit, names)}")
        return fits[names.index(self.fit)]

    def _curve(self, found: Sequence[Mapping[str, Any]], places: Sequence[float]) -> list[Trace]:
        """Through the fitted values, in order of x; where points have an interval, over a band of it."""
        line = {"type": "scatter", "mode": "lines", "x": list(places), "hoverinfo": "skip"}
        band: list[Trace] = []
        if all(_is_number(one.get("low")) and _is_number(one.get("high")) for one in found):
            edge = {"width": 0}
            band = [
                {**line, "y": [one["low"] for one in found], "line": edge, "showlegend": False},
                {**line, "y": [one["high"] for one in found], "line": edge, "fill": "tonexty", "name": "its interval"}
                | {"fillcolor": "rgba(102, 102, 102, 0.2)"},
            ]
        return [
            *band,
            {**line, "y": [one["fitted"] for one in found], "name": "fitted", "line": {"color": GREY, "width": 1.5}},
        ]

    def _points(
        self,
        cells: Cells,
        found: Sequence[Mapping[str, Any]],
        places: Sequence[float],
        some: Sequence[tuple[int, Mapping[str, Any]]],
        held: bool,
        simulated: bool,
    ) -> list[Trace]:
        at = [Point.at(places[i], float(found[i]["measured"]), dict(row)) for i, row in some]
        off = [
            p.changed(lambda y, to=float(found[i]["fitted"]): 100 * (y / to - 1) if to else 0.0)
            for p, (i, _) in zip(at, some, strict=True)
        ]
        name = "held out" if held else "measured"
        look = {
            "type": "scatter",
            "mode": "markers",
            "name": f"{name} (simulated)" if simulated else name,
            "x": [p.x for p in at],
            "marker": marker(int(held), simulated) | {"color": colour(int(held))},
        }
        return [
            {**look, "y": [p.y for p in at], **described(cells, at)},
            {**look, "y": [p.y for p in off], "yaxis": "y2", "showlegend": False, **described(cells, off)},
        ]

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls(fit=str(fit["name"])) for fit in cells.fits]


def _said(fit: Mapping[str, Any]) -> str:
    """Formula, parameters with their intervals, and errors."""
    values = [f"{name} = {_with_interval(value)}" for name, value in (fit.get("parameters") or {}).items()]
    said = [str(fit.get("formula") or ""), ", ".join(values)]
    for key, words in (("residual", "off by"), ("held_out", "held-out points off by")):
        if _is_number(fit.get(key)):
            said.append(f"{words} {100 * fit[key]:.2g} % (root mean square)")
    return "; ".join(part for part in (*said, str(fit.get("note") or "")) if part) + "."


def _with_interval(value: Mapping[str, Any]) -> str:
    ends = [value.get("low"), value.get("high")]
    interval = f" ({ends[0]:.4g} to {ends[1]:.4g})" if all(_is_number(end) for end in ends) else ""
    return f"{value['value']:.4g}{interval}" if _is_number(value.get("value")) else "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
