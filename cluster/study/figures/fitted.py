"""A fit: its points, its curve, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from ...config.words import nearest, show
from ...results.page import text as escaped
from ..table import Row
from .base import FIGURES, Cells, Figure, Nothing, Plot, Point, Trace, named, shown
from .style import ABOVE, DASHES, GREY, axis, colour, described, layout, marker, place

Group = object


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
        found = _drawable(fit)
        if not found:
            raise Nothing(f"{fit['name']}: {fit.get('note') or 'no points'}")
        places, values = [one.place for one in found], [one.measured for one in found]
        log = _is_wide(places) and _is_wide(values)
        traces: list[Trace] = []
        groups = list(dict.fromkeys(one.group for one in found))
        for style, group in enumerate(groups):
            of_curve = [row for row in _rows(fit, "curve") if row.get("group") == group]
            traces += _curve(of_curve, style, group) if of_curve else []
            traces += _points(cells, [one for one in found if one.group == group], style, group)
        title = "fitted" if any(one.several for one in found) else _columns(fit.get("x")) or "x"
        x = axis(title, log, places, anchor="y2")
        y = axis(_columns(fit.get("y")) or "y", log, values, domain=[0.36, 1])
        off = axis("off by (%)", domain=[0, 0.28], zeroline=True, zerolinecolor=GREY)
        return Plot(traces, layout(x, y, yaxis2=off, legend=ABOVE), _said(fit), 560)

    def _chosen(self, fits: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
        names = [str(fit["name"]) for fit in fits]
        if not fits:
            raise Nothing("the study has no fits; name them in its report, under fits")
        if self.fit not in names:
            raise Nothing(f"there is no fit {show(self.fit)}; the nearest is {nearest(self.fit, names)}")
        return fits[names.index(self.fit)]

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        return [cls(fit=str(fit["name"])) for fit in cells.fits]


class _At(NamedTuple):
    """A point that can be drawn. place: from left to right, x; where there are several x, what is fitted."""

    cell: object
    place: float | str
    several: bool
    measured: float
    fitted: float
    held_out: bool
    group: Group

    @property
    def off(self) -> float:
        """In %."""
        return 100 * (self.fitted / self.measured - 1) if self.measured else 0.0


def _drawable(fit: Mapping[str, object]) -> list[_At]:
    found = []
    for one in _rows(fit, "points"):
        x, measured, fitted = one["x"], one["measured"], one["fitted"]
        if _is_number(measured) and _is_number(fitted):
            several = isinstance(x, list)
            place = fitted if several else float(x) if _is_number(x) else shown(x)
            held_out = bool(one.get("held_out"))
            found.append(_At(one["cell"], place, several, measured, fitted, held_out, one.get("group")))
    return found


def _rows(fit: Mapping[str, object], key: str) -> list[dict[str, object]]:
    """A list in the document of a fit."""
    given = fit.get(key)
    return given if isinstance(given, list) else []


def _is_wide(values: Sequence[object]) -> bool:
    """Whether they are better on a logarithmic axis."""
    found = [value for value in values if _is_number(value) and value > 0]
    return len(found) == len(values) and max(found) > 5 * min(found)


def _of(group: Group, words: str) -> str:
    return escaped(words if group is None else f"{group}: {words}")


def _curve(rows: Sequence[Mapping[str, object]], style: int, group: Group) -> list[Trace]:
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


def _points(cells: Cells, found: Sequence[_At], style: int, group: Group) -> list[Trace]:
    """Those held out, and those simulated, as traces of their own."""
    rows: dict[object, Row] = {row.get("cell"): row for row in cells.rows}
    heaps: dict[tuple[bool, bool], list[tuple[_At, Row]]] = {}
    for one in found:
        row = rows.get(one.cell, {"cell": one.cell})
        heaps.setdefault((one.held_out, bool(row.get("simulated"))), []).append((one, row))
    traces: list[Trace] = []
    for (held_out, simulated), heap in sorted(heaps.items(), key=lambda one: one[0]):
        at = [Point.at(one.place, one.measured, row) for one, row in heap]
        off = [Point.at(one.place, one.off, row) for one, row in heap]
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


def _columns(given: object) -> str:
    """The columns that a study fits, as an axis is called."""
    return ", ".join(named(str(column)) for column in (given if isinstance(given, list) else [given] if given else []))


def _said(fit: Mapping[str, object]) -> str:
    """Formula, parameters with their intervals, and errors."""
    parameters = fit.get("parameters")
    named_values = parameters.items() if isinstance(parameters, Mapping) else ()
    values = [f"{name} = {_with_interval(value)}" for name, value in named_values]
    said = [str(fit.get("formula") or ""), ", ".join(values)]
    for key, words in (("residual", "off by"), ("held_out", "held-out points off by")):
        if _is_number(error := fit.get(key)):
            said.append(f"{words} {100 * error:.2g} % (root mean square)")
    said += [f"assumed: {_with_interval(one)} {one['name']} ({one['source']})" for one in _rows(fit, "assumptions")]
    return "; ".join(part for part in (*said, str(fit.get("note") or "")) if part) + "."


def _with_interval(value: Mapping[str, object]) -> str:
    mean, low, high = value.get("value"), value.get("low"), value.get("high")
    interval = f" ({low:.4g} to {high:.4g})" if _is_number(low) and _is_number(high) else ""
    return f"{mean:.4g}{interval}" if _is_number(mean) else "?"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
