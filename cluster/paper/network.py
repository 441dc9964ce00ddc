"""Fig 2: the network as it is, its units with their shapes and parameters, and its segments in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tdformer import TDFormer
from tdformer.measure.outline import BEHIND, Box, Edge, Outline, Part, outline

from ..build.model import example
from . import style
from .figure import FIGURES, Drawn, Figure
from .opening import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 4
"""Of more segments the first ones are drawn."""
ROW, HEAD, PAD, APART = 0.16, 0.16, 0.03, 0.14
"""Inches: the height of a row of units and of a group's name, between boxes, between groups."""
LEFT, WIDTH, FOOT = 0.08, 3.1, 0.2
"""Inches: where the units begin, which are drawn once for all segments, and how wide they are; where images enter."""
SMALL = 5.0
"""Points."""
_BLUE, _PALE, _ORANGE, _DARK = "#d3e6f3", "#edf4fa", "#fbdcc4", "#444444"
_FED = style.COLOURS[1]
_WORDS = {"K": "the key", "V": "the value", "input": "the input of the attention"}


@dataclass(frozen=True)
class Group:
    """Parts that lie behind one another and are alike, drawn once, from `bottom` on."""

    parts: tuple[Part, ...]
    bottom: float

    @property
    def rows(self) -> tuple[tuple[Box, ...], ...]:
        return self.parts[0].rows

    @property
    def behind(self) -> bool:
        """Whether it is what lies behind all parts of the backbone."""
        return self.parts[0].name == BEHIND

    @property
    def name(self) -> str:
        """That of its part, or those of the first and the last one."""
        first, last = (self.parts[i].name.removeprefix("backbone.") for i in (0, -1))
        return first if first == last else f"{first}–{last.rpartition('.')[2]}"

    @property
    def parameters(self) -> int:
        return sum(box.parameters for part in self.parts for box in part.boxes)

    @property
    def top(self) -> float:
        return self.bottom + HEAD + len(self.rows) * (ROW + PAD) + PAD

    def row(self, number: int) -> float:
        """Where it begins."""
        return self.bottom + PAD + number * (ROW + PAD)


def groups(parts: Sequence[Part]) -> list[Group]:
    """One above the other, in the order of the parts."""

    def alike(part: Part) -> object:
        return [[(_within(box, part), box.kind, box.shape, box.parameters) for box in row] for row in part.rows]

    found: list[Group] = []
    for _, same in groupby((part for part in parts if part.rows), key=alike):
        found.append(Group(tuple(same), (found[-1].top if found else FOOT + ROW) + APART))
    return found


@FIGURES.register("2")
@dataclass(frozen=True, kw_only=True)
class Network(Figure):
    """The network of one run, as a pass of zeros shows it."""

    title = "The network, and its segments in time"
    most = 1

    def draw(self, runs: Sequence[Run]) -> Drawn:
        model = runs[0].model
        return picture(model, outline(model, example(model, 1, str(runs[0].device))))


def picture(model: TDFormer, seen: Outline) -> Drawn:
    """Left the units, which all segments share, from the input below to the head above; right the segments."""
    from matplotlib.figure import Figure as Sheet

    found = groups(seen.parts)
    height = found[-1].top + 0.35
    sheet = Sheet(figsize=(style.PAGE, height))
    sheet.set_layout_engine("none")  # all is placed here
    axes = sheet.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, style.PAGE), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    _units(axes, found, model)
    _segments(axes, found, model, seen)
    return Drawn(sheet, _caption(model, seen, found), _table(seen))


def _units(axes: Axes, found: Sequence[Group], model: TDFormer) -> None:
    right, middle = LEFT + WIDTH, LEFT + WIDTH / 2
    axes.text(
        middle, found[-1].top + 0.2, "Units and their parameters, the same in all segments", **_MIDDLE, fontsize=6
    )
    _column(axes, found, LEFT, right, f"image {_shape(_input(model))}")
    for group in found:
        place, count = group.top - HEAD / 2, len(group.parts)
        axes.text(LEFT + 0.05, place, group.name, va="center", fontsize=SMALL + 0.7, weight="bold")
        axes.text(right - 0.05, place, f"{group.parameters:,}", va="center", ha="right", fontsize=SMALL + 0.7)
        if count > 1:
            axes.text(middle, place, f"{count} × {group.parameters // count:,}", **_MIDDLE, fontsize=SMALL + 0.7)
        for number, row in enumerate(group.rows):
            each = (WIDTH - PAD) / len(row)
            for k, box in enumerate(row):
                x = LEFT + PAD + k * each
                _unit(axes, x, group.row(number), x + each - PAD, box, _within(box, group.parts[0]), len(row) == 1)


def _unit(axes: Axes, left: float, bottom: float, right: float, box: Box, within: str, alone: bool) -> None:
    """One box: alone in its row with its kind, beside others without."""
    colour = _ORANGE if box.feedback else _BLUE if "LIF" in box.kind else _PALE
    _box(axes, left, bottom, right, bottom + ROW, colour)
    middle, count = bottom + ROW / 2, f"{box.parameters:,}" if box.parameters else ""
    if not alone:
        words = [_called(within), "" if box.feedback else _shape(box.shape), count]
        axes.text((left + right) / 2, middle, " ".join(filter(None, words)), **_MIDDLE, fontsize=SMALL)
        return
    axes.text(left + 0.05, middle, _called(within), va="center", fontsize=SMALL)
    axes.text(left + 0.8, middle, box.kind.replace(" x ", "×"), va="center", fontsize=SMALL, color=style.GREY)
    axes.text(right - 0.6, middle, _shape(box.shape), va="center", ha="right", fontsize=SMALL)
    axes.text(right - 0.05, middle, count, va="center", ha="right", fontsize=SMALL)


def _segments(axes: Axes, found: Sequence[Group], model: TDFormer, seen: Outline) -> None:
    """Columns in time, and between two of them H_n on its way down into the fed-back parts."""
    shown, steps = min(model.segments, SHOWN), model.time_steps // model.segments
    start, gap = LEFT + WIDTH + 0.25, 0.4 if seen.edges else 0.2
    width = min((style.PAGE - LEFT - start - (shown - 1) * gap) / shown, 1.5)
    for n in range(shown):
        left = start + n * (width + gap)
        right, middle = left + width, left + width / 2
        when = f"t = {n * steps + 1}" + (f" to {(n + 1) * steps}" if steps > 1 else "")
        axes.text(middle, found[-1].top + 0.2, f"segment {n + 1}\n{when}", **_MIDDLE, fontsize=6)
        _column(axes, found, left, right, "image")
        for group in found:
            words = f"$O_{{{n + 1}}}$" if group.behind else "\n".join(filter(None, (group.name, _leaves(group))))
            axes.text(middle, (group.bottom + group.top) / 2, words, **_MIDDLE, fontsize=SMALL)
            if n + 1 < shown:
                axes.plot([right, right + gap], [group.bottom + 0.05] * 2, color="#888888", lw=0.6, ls=":")
        edges = [edge for edge in seen.edges if edge.source == n]
        if n + 1 < shown and edges:
            _fed_back(axes, found, seen, edges, middle, right, gap)
    if shown < model.segments:
        axes.text(style.PAGE - LEFT, 0.08, f"and so on, to segment {model.segments}", ha="right", fontsize=SMALL)


def _fed_back(
    axes: Axes, found: Sequence[Group], seen: Outline, edges: Sequence[Edge], middle: float, right: float, gap: float
) -> None:
    """H_n from where it leaves its segment, down the gap and into the next one, whose boxes begin at right + gap."""
    places = {box.name: (group, i) for group in found for i, row in enumerate(group.rows) for box in row}
    if seen.fires in places:
        group, number = places[seen.fires]
        begin = (right, group.row(number) + ROW / 2)
    else:  # a sum, which the last part gives
        begin = (middle, max(group.top for group in found if not group.behind) + APART / 2)
    down, width = right + 0.13, 0.1
    ends = []
    for group in found:
        count = sum(edge.part == part.name for edge in edges for part in group.parts)
        if count:
            row = next(i for i, boxes in enumerate(group.rows) if any(box.feedback for box in boxes))
            y = group.row(row) + ROW / 2
            ends.append(y)
            _arrow(axes, (down + width, y), (right + gap, y), _FED)
            for x, words in ((down, "PM"), (right + gap + width + 0.01, "CM")):
                _box(axes, x - width, y - ROW / 2, x + width, y + ROW / 2, _ORANGE, words)
            if count > 1:
                axes.text(down, y - ROW / 2 - 0.02, f"× {count}", ha="center", va="top", fontsize=SMALL, color=_FED)
    line = [(begin[0], begin[1]), (down, begin[1]), (down, min(ends))]
    axes.plot(*zip(*line, strict=True), color=_FED, lw=0.8, solid_joinstyle="miter", zorder=0.9)
    axes.text(down + 0.03, begin[1], f"$H_{{{edges[0].target}}}$", fontsize=SMALL + 0.5, color=_FED, va="top")


def _within(box: Box, part: Part) -> str:
    return box.name.removeprefix(f"{part.name}.").removeprefix("backbone.")


def _called(within: str) -> str:
    """A name as a box has room for it: without what says in which half of a block it is."""
    for long, short in (("attention.control.processing", "PM"), ("attention.control", "CM")):
        if within.startswith(long):
            return f"{short} {within.removeprefix(long).removeprefix('.') or 'w'}"
    return within.removeprefix("attention.").removeprefix("mlp.")


def _leaves(group: Group) -> str:
    """The shape of what leaves its last box."""
    return _shape(group.rows[-1][-1].shape)


def _input(model: TDFormer) -> tuple[int, ...]:
    return (model.config["in_channels"], *model.config["image_size"])


def _shape(shape: Sequence[int] | None) -> str:
    return "" if shape is None else "×".join(map(str, shape))


_MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}


def _column(axes: Axes, found: Sequence[Group], left: float, right: float, image: str) -> None:
    """Frames for the groups, and arrows from the input up through them."""
    from matplotlib.patches import Rectangle

    _box(axes, left, FOOT, right, FOOT + ROW, style.LIGHT, image)
    below = FOOT + ROW
    for group in found:
        size = (right - left, group.top - group.bottom)
        axes.add_patch(Rectangle((left, group.bottom), *size, fc="white", ec=_DARK, lw=0.6))
        _arrow(axes, ((left + right) / 2, below), ((left + right) / 2, group.bottom), _DARK)
        below = group.top


def _box(axes: Axes, left: float, bottom: float, right: float, top: float, colour: str, words: str = "") -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, fc=colour, ec="#888888", lw=0.4, zorder=2))
    if words:
        axes.text((left + right) / 2, (bottom + top) / 2, words, **_MIDDLE, fontsize=SMALL)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    head = {"arrowstyle": "-|>,head_width=.12,head_length=.25", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops={**head, "color": colour, "lw": 0.8})


def _caption(model: TDFormer, seen: Outline, found: Sequence[Group]) -> str:
    boxes = seen.boxes
    total, own = (sum(box.parameters for box in of) for of in (boxes, [box for box in boxes if box.feedback]))
    count = model.segments
    fed = "Nothing is fed back: from one segment to the next go membrane potentials alone."
    if seen.edges:
        into = {edge.part for edge in seen.edges}
        names = [group.name for group in found if not into.isdisjoint(part.name for part in group.parts)]
        fed = (
            f"The high-level spikes H_n ({_shape(seen.high)}) of a segment go back into {', '.join(names)} of the next "
            f"one: through a processing module (PM) and a control module (CM) for each block, into "
            f"{_WORDS[seen.edges[0].into]}, with {own:,} parameters ({own / total:.2%}; orange)."
        )
    more = f" The first {SHOWN} segments are drawn." if count > SHOWN else ""
    return (
        f"**`{model.config['name']}`, {total:,} parameters in {len(boxes)} units and layers**, for an input of "
        f"{_shape(_input(model))}. Left: each with the shape of what leaves it at one time step, and its parameters; "
        f"parts that are alike are drawn once. Right: {model.time_steps} time steps in {count} segment"
        f"{'s' * (count > 1)} of {model.time_steps // count}; dotted lines are membrane potentials. {fed}{more}"
    )


def _table(seen: Outline) -> list[dict[str, object]]:
    units = [
        {
            "part": part.name,
            "unit": box.name,
            "kind": box.kind,
            "shape": _shape(box.shape),
            "parameters": box.parameters,
        }
        for part in seen.parts
        for box in part.boxes
    ]
    edges = [
        {
            "part": edge.part,
            "unit": edge.control,
            "kind": f"into {edge.into}",
            "from": edge.source + 1,
            "to": edge.target + 1,
        }
        for edge in seen.edges
    ]
    return [*units, *edges]
