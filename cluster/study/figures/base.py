"""What a kind of figure is, how the YAML's keys become one, and the cells that it draws.

A kind is a frozen dataclass below `Figure`: its fields are the keys that it takes, a field without a default must be
given. Registered in FIGURES it can be named in a study:

    @FIGURES.register("mine")
    @dataclass(frozen=True, kw_only=True)
    class Mine(Figure):
        y: str = "loss"
        def draw(self, cells): return Plot([...], {...})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tdformer.errors import ModelError
from tdformer.plugins import Registry

from ...config.words import either, nearest, show
from ...errors import RunError
from ...results.page import text as escaped
from ..keys import read
from ..table import Row, number

Trace = dict[str, object]

NAMES = {
    "world": "processes",
    "parameters": "parameters",
    "images": "training images seen",
    "steps": "optimizer steps",
    "flop_image": "FLOP of an image",
    "flop_image_done": "FLOP done for it",
    "loss": "training loss",
    "eval_loss": "loss on the test set",
    "accuracy": "accuracy on the test set",
    "energy_mj": "energy of an image by Eqs 109-110 (mJ)",
    "seconds_step": "time of a step (s)",
    "images_second": "images/s",
    "tflops": "TFLOP/s of a process",
    "mfu": "model FLOP utilisation",
    "hfu": "hardware FLOP utilisation",
    "peak_gib": "peak memory of a process (GiB)",
    "gpu_hours": "GPU-hours",
    "good": "goodput, share of GPU-hours",
    "failures": "failures of the study's own",
    "again": "steps done again",
    "best_every": "best steps between saves",
    "axis.nodes": "nodes",
    "axis.processes": "processes on each node",
    "axis.gpus": "GPUs on each node",
    "axis.share": "share of the training images",
}
"""Columns as an axis is called, with their units."""


def named(column: str) -> str:
    """A column, as an axis or a table calls it."""
    if column.startswith("predicted."):
        return f"predicted: {named(column.removeprefix('predicted.'))}"
    for prefix, unit in (("seconds.", " (s)"), ("gib.", " (GiB)"), ("bad.", ", share of GPU-hours")):
        if column.startswith(prefix):
            return column.removeprefix(prefix) + unit
    return NAMES.get(column, column.removeprefix("axis."))


def sentence(words: str) -> str:
    """With a capital letter."""
    return words[:1].upper() + words[1:]


class Nothing(Exception):
    """There is nothing to draw: a line that says what is missing."""


@dataclass(frozen=True)
class Plot:
    """For Plotly, which reads texts as HTML of a few tags: those of users in it are escaped. note: a line below it, not
    escaped."""

    traces: list[Trace]
    layout: dict[str, object]
    note: str = ""
    height: int = 430


@dataclass(frozen=True)
class Table:
    """Not escaped; a cell is a text or a number, and a line that of a row."""

    head: list[str]
    body: list[list[object]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Of some cells. where: columns and the value, or the values, that cells must have to be in it."""

    title: str = ""
    text: str = ""
    where: Mapping[str, object] = field(default_factory=dict)
    called: ClassVar[str] = ""
    """The title where none is given."""

    def draw(self, cells: Cells) -> Plot | Table:
        """Raises Nothing."""
        raise NotImplementedError

    def heading(self) -> str:
        return self.title or self.called

    @classmethod
    def default(cls, cells: Cells) -> list[Figure]:
        """Those that a report has where the study names none."""
        return []


FIGURES: Registry[type[Figure]] = Registry("kind of figure")


def figure(given: object, where: str) -> Figure:
    """What the YAML has, as a figure. Raises RunError, in one line, for a kind, a key or a value that is not one."""
    if not isinstance(given, Mapping):
        raise RunError(f"{where} is {show(given)}; expected a figure's keys, such as kind: curve")
    kind = given.get("kind")
    if not isinstance(kind, str):
        raise RunError(f"{where} has no kind; choose {either(FIGURES.names())}")
    try:
        cls = FIGURES.get(kind)
    except ModelError as error:
        raise RunError(f"{where}.kind: {error}") from None
    return read(cls, {key: value for key, value in given.items() if key != "kind"}, where)


def shown(value: object) -> str:
    """A value of an axis."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else show(value)


def is_seed(column: str) -> bool:
    """Whether an axis repeats what is otherwise the same."""
    return column.startswith("axis.") and column.rpartition(".")[2] in ("seed", "repeat")


@dataclass(frozen=True)
class Point:
    """The mean of cells with one x, from the lowest to the highest of them; of one cell, its quartiles, if it has any.
    x: a number, or a text where not all are."""

    x: float | str
    y: float
    low: float
    high: float
    rows: Sequence[Row]

    @classmethod
    def at(cls, x: float | str, y: float, row: Row) -> Point:
        """Of one cell, without an error bar."""
        return cls(x, y, y, y, [row])

    def changed(self, by: Callable[[float], float]) -> Point:
        """With a monotonic function of y in place of y."""
        low, high = sorted((by(self.low), by(self.high)))
        return Point(self.x, by(self.y), low, high, self.rows)


@dataclass(frozen=True)
class Series:
    """Cells that are drawn as one line. style: which colour, symbol and dash."""

    name: str
    style: int
    simulated: bool
    rows: Sequence[Row]

    @property
    def legend(self) -> str:
        return " ".join(part for part in (self.name, "(simulated)" if self.simulated else "") if part) or "measured"


class Cells:
    """The rows of a table, or some of them, with what a figure says of each; and the fits over them."""

    def __init__(
        self, rows: Sequence[Row], fits: Sequence[Mapping[str, object]] = (), whole: Cells | None = None
    ) -> None:
        """whole: those that these are some of, by which they are numbered and named."""
        self.rows = list(rows)
        self.fits = list(fits)
        self.places: dict[object, int] = whole.places if whole else {row.get("cell"): i for i, row in enumerate(rows)}
        self.varying: list[str] = _varying(self.rows)
        """The axes of which these have more than one value."""
        self.axes: list[str] = whole.axes if whole else self.varying
        """Those of which the whole table has."""

    def where(self, wanted: Mapping[str, object]) -> Cells:
        """Those that have these values; a list: one of these."""
        self.need(*wanted)

        def has(row: Row) -> bool:
            return all(row.get(k) in (v if isinstance(v, list) else [v]) for k, v in wanted.items())

        found = [row for row in self.rows if has(row)]
        if not found:
            raise Nothing(f"no cell has {', '.join(f'{k} = {show(v)}' for k, v in wanted.items())}")
        return Cells(found, self.fits, self)

    def has(self, *columns: str) -> bool:
        """Whether some cell has a number in each of these."""
        return any(all(number(row, column) is not None for column in columns) for row in self.rows)

    def need(self, *columns: str) -> None:
        """Raises Nothing for a column that no cell has."""
        known = {key for row in self.rows for key, value in row.items() if value is not None}
        for column in columns:
            if column not in known:
                near = f"; the nearest column is {nearest(column, sorted(known))}" if known else ""
                raise Nothing(f"no cell has {column} yet{near}")

    def parts(self, prefix: str, first: Iterable[str] = ()) -> list[str]:
        """The columns PREFIX.PART that have a number, in the order of `first`, then of the alphabet."""
        order = list(first)
        found = {key for row in self.rows for key in row if key.startswith(prefix) and number(row, key) is not None}
        place = {f"{prefix}{part}": i for i, part in enumerate(order)}
        return sorted(found, key=lambda key: (place.get(key, len(order)), key))

    def group(self, given: tuple[str, ...] | None, *without: str) -> list[str]:
        """The axes that tell lines apart: those given, or those that vary but for seeds and what is on an axis."""
        if given is not None:
            self.need(*given)
            return list(given)
        kept: list[str] = []
        for key in self.varying:
            if key not in without and not is_seed(key) and not any(self.same(key, one) for one in (*without, *kept)):
                kept.append(key)
        return kept

    def same(self, key: str, other: str) -> bool:
        """Whether two columns tell the same cells apart, as a case and its settings do, or processes and nodes."""
        pairs = {(repr(row.get(key)), repr(row.get(other))) for row in self.rows}
        return len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) > 1

    def series(self, group: Sequence[str]) -> list[Series]:
        """One for each combination of these columns' values, those simulated apart."""
        found: dict[str, dict[bool, list[Row]]] = {}
        for row in self.rows:
            found.setdefault(label(row, group), {}).setdefault(bool(row.get("simulated")), []).append(row)
        return [
            Series(name, style, simulated, rows)
            for style, (name, kinds) in enumerate(found.items())
            for simulated, rows in sorted(kinds.items())
        ]

    def hover(self, rows: Sequence[Row]) -> str:
        """What cells are, escaped: of one, all that identifies it; of several, their names."""
        if len(rows) > 1:
            return escaped(f"{len(rows)} cells: {', '.join(shown(row.get('cell')) for row in rows)}")
        [row] = rows
        facts = [shown(row.get("cell"))]
        facts += [f"{named(k)} = {shown(row.get(k))}" for k in self.axes]
        facts += [f"{k} {shown(row[k])[:60]}" for k in ("revision", "machine", "date") if row.get(k) is not None]
        facts += ["simulated, not run"] if row.get("simulated") else []
        return "<br>".join(escaped(fact) for fact in facts)

    def place(self, rows: Sequence[Row]) -> int:
        """The line of the table at the end that the first of them has."""
        return self.places.get(rows[0].get("cell"), 0)


def _varying(rows: Sequence[Row]) -> list[str]:
    axes = sorted({key for row in rows for key in row if key.startswith("axis.")})
    return [key for key in axes if len({repr(row.get(key)) for row in rows}) > 1]


def label(row: Row, columns: Sequence[str]) -> str:
    """Of which axes, and their values there."""
    return ", ".join(f"{_short(column, columns)} {shown(row.get(column))}" for column in columns)


def _short(column: str, columns: Sequence[str]) -> str:
    """An axis by its last word, where that says which."""
    last = column.rpartition(".")[2]
    same = [other for other in columns if other.rpartition(".")[2] == last]
    return last if len(same) == 1 else named(column)


def points(rows: Sequence[Row], x: str, y: str) -> list[Point]:
    """In order of x; cells without x or y are left out."""
    found: dict[float | str, list[Row]] = {}
    for row in rows:
        if row.get(x) is not None and number(row, y) is not None:
            place = number(row, x)
            found.setdefault(shown(row[x]) if place is None else place, []).append(row)
    if all(isinstance(place, float) for place in found):
        found = dict(sorted(found.items(), key=lambda one: float(one[0])))
    return [_point(place, y, of) for place, of in found.items()]


def _point(place: float | str, y: str, rows: Sequence[Row]) -> Point:
    values = [value for row in rows if (value := number(row, y)) is not None]
    if len(values) > 1:
        return Point(place, sum(values) / len(values), min(values), max(values), rows)
    low, high = (number(rows[0], f"{y}_{end}") for end in ("low", "high"))
    return Point(place, values[0], values[0] if low is None else low, values[0] if high is None else high, rows)
