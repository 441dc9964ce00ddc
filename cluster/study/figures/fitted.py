"""A fit: its points, its curve, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...config.words import nearest, show
from ...results.page import text as escaped
from ..table import Row
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, named, shown
from .style import ABOVE, DASHES, GREY, axis, colour, described, layout, marker, place

Group = str | None


@FIGURES.register("fit")
@dataclass(frozen=True, kw_only=True)
class Fitted(Figure):
    """One of the study's fits, by its name. Above: measured, and the curve with its interval; below: fitted over
    measured - 1, in %. Points that the fit was not made from are named held out."""

    fit: str

    def heading(self) -> str:
        return self.title or f"Fit: {self.fit}"

    def draw(self, cells: Cells) -> Plot:
        fit = self._chosen(cells.fits)
        found = [one for one in fit["points"] if _is_number(one["measured"]) and _is_number(one["fitted"])]
        if not found:
            raise Nothing(f"{fit['name']}: {fit.get('note') or 'no points'}")
        places = [_place(one) for one in found]
        values = [one["measured"] for one in found]
        log = _is_wide(places) and _is_wide(values)
        traces: list[Trace] = []
        groups: list[Group] = list(dict.fromkeys(one.get("group") for one in found))
        for style, group in enumerate(groups):
            of_curve = [row for row in fit.get("curve") or [] if row.get("group") == group]
            traces += _curve(of_curve, style, group) if of_curve else []
            traces += _points(cells, [one for one in found if one.get("group") == group], style, group)
        several = any(isinstance(one["x"], list) for one in found)
        title = "fitted" if several else _columns(fit.get("x")) or "x"
        x = axis(title, log, places, anchor="y2")
        y = axis(_columns(fit.get("y")) or "y", log, values, domain=[0.36, 1])
        off = axis("off by (%)", domain=[0, 0.28], zeroline=True, zerolinecolor=GREY)
        return Plot(traces, layout(x, y, yaxis2=off, legend=ABOVE), _said(fit), 560)

    def _chosen(self, fits: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        names = [str(fit["name"]) for fit in fits]
        if not fits:
            raise Nothing("the study has no fits; name them in its report, under fits")
        if self.fit not in names:
            raise Nothing(f"there is no fit {show(self.fit)}; the nearest is {nearest(self.fit, names)}")
        return fits[names.index(self.fit)]

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls(fit=str(fit["name"])) for fit in cells.fits]


def _place(point: Mapping[str, Any]) -> float | str:
    """Where a point is from left to right: at x; where there are several x, at what is fitted."""
    x = point["fitted"] if isinstance(point["x"], list) else point["x"]
    return float(x) if _is_number(x) else shown(x)


def _is_wide(values: Sequence[Any]) -> bool:
    """Whether they are better on a logarithmic axis."""
    return all(_is_number(value) and value > 0 for value in values) and max(values) > 5 * min(values)


def _of(group: Group, words: str) -> str:
    return escaped(words if group is None else f"{group}: {words}")


def _curve(rows: Sequence[Mapping[str, Any]], style: int, group: Group) -> list[Trace]:
    """Over a band of its interval."""
    line = {"type": "scatter", "mode": "lines", "x": [row["x"] for row in rows], "hoverinfo": "skip"}
    edge = {"width": 0}
    look = {"color": colour(style), "width": 1.5, "dash": DASHES[style % len(DASHES)]}
    return [
        {**line, "y": [row.get("low") for row in rows], "line": edge, "showlegend": False},
        {**line, "y": [row.get("high") for row in rows], "line": edge, "fill": "tonexty", "showlegend": False}
        | {"fillcolor": "rgba(102, 102, 102, 0.18)"},
        {**line, "y": [row["y"] for row in rows], "name": _of(group, "fitted, with its interval"), "line": look},
    ]


def _points(cells: Cells, found: Sequence[Mapping[str, Any]], style: int, group: Group) -> list[Trace]:
    """Those held out, and those simulated, as traces of their own."""
    rows: dict[Any, Row] = {row.get("cell"): row for row in cells.rows}
    heaps: dict[tuple[bool, bool], list[tuple[Mapping[str, Any], Row]]] = {}
    for one in found:
        row = rows.get(one["cell"], {"cell": one["cell"]})
        heaps.setdefault((bool(one.get("held_out")), bool(row.get("simulated"))), []).append((one, row))
    traces: list[Trace] = []
    for (held_out, simulated), heap in sorted(heaps.items(), key=lambda one: one[0]):
        at = [Point.at(_place(one), one["measured"], row) for one, row in heap]
        off = [Point.at(_place(one), _off(one), row) for one, row in heap]
        name = f"{'held out' if held_out else 'measured'}{' (simulated)' if simulated else ''}"
        symbol = {"symbol": f"star{'-open' if simulated else ''}", "size": 12} if held_out else {}
        look = {
            "type": "scatter",
            "mode": "markers",
            "name": _of(group, name),
            "legendgroup": _of(group, name),
            "x": [place(point.x) for point in at],
            "marker": marker(style, simulated) | symbol,
        }
        traces.append({**look, "y": [point.y for point in at], **described(cells, at)})
        below = {"yaxis": "y2", "showlegend": False}
        traces.append({**look, "y": [point.y for point in off], **below, **described(cells, off)})
    return traces


def _off(point: Mapping[str, Any]) -> float:
    """In %."""
    return 100 * (point["fitted"] / point["measured"] - 1) if point["measured"] else 0.0


def _columns(given: Any) -> str:
    """The columns that a study fits, as an axis is called."""
    return ", ".join(named(str(column)) for column in (given if isinstance(given, list) else [given] if given else []))


def _said(fit: Mapping[str, Any]) -> str:
    """Formula, parameters with their intervals, and errors."""
    values = [f"{name} = {_with_interval(value)}" for name, value in (fit.get("parameters") or {}).items()]
    said = [str(fit.get("formula") or ""), ", ".join(values)]
    for key, words in (("residual", "off by"), ("held_out", "held-out points off by")):
        if _is_number(fit.get(key)):
            said.append(f"{words} {100 * fit[key]:.2g} % (root mean square)")
    said += [f"assumed: {_with_interval(one)} {one['name']} ({one['source']})" for one in fit.get("assumptions") or []]
    return "; ".join(part for part in (*said, str(fit.get("note") or "")) if part) + "."


def _with_interval(value: Mapping[str, Any]) -> str:
    ends = [value.get("low"), value.get("high")]
    interval = f" ({ends[0]:.4g} to {ends[1]:.4g})" if all(_is_number(end) for end in ends) else ""
    return f"{value['value']:.4g}{interval}" if _is_number(value.get("value")) else "?"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
