"""What a trained model's images cost in energy: its operations by part, unit and time step, under several prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import TypedDict, TypeVar

from tdformer.measure import Counted, Row, count
from tdformer.measure.energy import PRICES, Prices, arithmetic, as_ann, break_even, conventional, energies, firing_rate
from tdformer.measure.operations import FEEDBACK, HEAD

from ..results import page
from ..results.marks import marked
from ..run.records import write_atomic
from .opening import Run
from .style import COLOURS

K = TypeVar("K")
FLOAT = PRICES[0]
"""The paper's constants; the tables by part, unit and step are in these."""
KINDS = ("multiply-adds", "additions", "neurons", "other")
"""Of what a unit's energy is: real numbers times weights; spikes' additions, in layers and products; updates of
membranes; residual sums, pooling, means, scales."""


class Sums(TypedDict):
    """Of some rows, an image: operations; energy in mJ, also by KINDS."""

    mac: float
    ac: float
    of_sums: float
    updates: float
    dense: float
    mj: float
    mj_by_kind: dict[str, float]
    firing_rate: float | None


class OfPart(Sums):
    part: str


class OfUnit(Sums):
    unit: str


class OfStep(Sums):
    step: int
    mj_by_part: dict[str, float]


class Priced(TypedDict):
    """mJ of an image under some prices."""

    prices: str
    source: str
    operations_mj: float
    memory_mj: float | None
    mj: float
    ann_mj: float
    break_even_rate: float | None


class Told(TypedDict):
    """All numbers; see `as_json`."""

    model: str
    name: str
    time_steps: int
    segments: int
    images: int
    of: int
    total: Sums
    parts: list[OfPart]
    units: list[OfUnit]
    steps: list[OfStep]
    prices: list[Priced]
    conventional_mj: float
    multiplied_mj: float
    norm: float
    unknown: list[str]


def counted(run: Run, images: int) -> Counted:
    """Of so many samples of the test set, or all if it has fewer, that lie evenly in it."""
    return reduce(Counted.joined, (count(run.model, batch) for batch, _ in run.batches(images)))


def as_json(run: Run, found: Counted) -> Told:
    """All numbers, each of one image: energies in mJ, the rest in operations. `unknown`: what is in no number."""
    rows, images = found.rows, found.images
    ann = as_ann(found)
    return {
        "model": run.given,
        "name": run.model.config["name"],
        "time_steps": run.model.time_steps,
        "segments": run.model.segments,
        "images": images,
        "of": len(run.data),
        "total": _sums(rows, found),
        "parts": [{"part": name, **_sums(own, found)} for name, own in _groups(rows, _part).items()],
        "units": [{"unit": name, **_sums(own, found)} for name, own in _groups(rows, _unit).items()],
        "steps": [
            {"step": step, **_sums(own, found), "mj_by_part": _mj_by_part(own, found)}
            for step, own in _groups(rows, lambda row: _step(row, run)).items()
        ],
        "prices": [_under(found, ann, prices) for prices in PRICES],
        "conventional_mj": conventional(found) / 1e9,
        "multiplied_mj": sum(arithmetic(row, FLOAT, by_additions=False) for row in rows) / images / 1e9,
        "norm": sum(row.norm for row in rows) / images,
        "unknown": found.unknown,
    }


def _part(row: Row) -> str:
    return row.part


def _unit(row: Row) -> str:
    """A unit with its convolution and its neuron."""
    name = row.unit.removeprefix("backbone.")
    for part in (".conv", ".current", ".neuron"):
        name = name.removesuffix(part)
    return name or HEAD


def _step(row: Row, run: Run) -> int:
    """What is done once a segment is done after its last step."""
    return row.step if row.step is not None else (row.segment + 1) * run.model.time_steps // run.model.segments - 1


def _kind(row: Row) -> str:
    if row.operation == "neuron":
        return "neurons"
    if row.operation not in ("convolution", "linear", "product"):
        return "other"
    return "multiply-adds" if row.mac else "additions"


def _groups(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """In order of first appearance, but for feedback and head, which come last."""
    found: dict[K, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    last: tuple[object, ...] = (FEEDBACK, HEAD)
    return {k: found[k] for k in sorted(found, key=lambda k: last.index(k) + 1 if k in last else 0)}


def _mj(rows: Iterable[Row], found: Counted) -> float:
    return sum(arithmetic(row, FLOAT) for row in rows) / found.images / 1e9


def _mj_by_part(rows: Iterable[Row], found: Counted) -> dict[str, float]:
    return {part: _mj(own, found) for part, own in _groups(rows, _part).items()}


def _sums(rows: Sequence[Row], found: Counted) -> Sums:
    kinds = {kind: _mj((row for row in rows if _kind(row) == kind), found) for kind in KINDS}
    layers = [row for row in rows if row.operation != "neuron"]
    return {
        "mac": sum(row.mac for row in rows) / found.images,
        "ac": sum(row.ac + row.additions for row in layers) / found.images,
        "of_sums": sum(row.additions for row in layers) / found.images,
        "updates": sum(row.outputs for row in rows if row.operation == "neuron") / found.images,
        "dense": sum(row.dense for row in rows) / found.images,
        "mj": _mj(rows, found),
        "mj_by_kind": kinds,
        "firing_rate": firing_rate(rows),
    }


def _under(found: Counted, ann: Counted, prices: Prices) -> Priced:
    operations, memory = (sum(of) / 1e9 for of in zip(*energies(found, prices), strict=True))
    other = sum(map(sum, energies(ann, prices))) / 1e9
    return {
        "prices": prices.name,
        "source": prices.source,
        "operations_mj": operations,
        "memory_mj": memory if prices.memory is not None else None,
        "mj": operations + memory,
        "ann_mj": other,
        "break_even_rate": break_even(found, prices),
    }


def table(row: Told) -> list[str]:
    """The numbers as lines of a terminal."""
    steps, segments = row["time_steps"], row["segments"]
    lines = [
        f"{row['model']}: {row['name']}, {steps} time steps in {segments} segment{'s' * (segments > 1)}; "
        f"an image, mean of {row['images']} of {row['of']:,}",
        "",
        *_aligned(PARTS, _parts(row)),
        "",
        *_aligned(MODELS, _prices(row)),
        "",
        *(f"{name}: {value}" for name, value in _beside(row).items()),
    ]
    return [line.rstrip() for line in lines]


PARTS = ("part", "MAC", "AC", "of sums", "updates", "mJ", "firing rate")
MODELS = ("prices", "operations mJ", "memory mJ", "together mJ", "as ANN mJ", "break-even rate")


def _parts(row: Told) -> list[list[str]]:
    parts: list[tuple[str, Sums]] = [*((one["part"], one) for one in row["parts"]), ("total", row["total"])]
    return [
        [
            *(name, amount(one["mac"]), amount(one["ac"]), amount(one["of_sums"]), amount(one["updates"])),
            *(f"{one['mj']:.4g}", "-" if one["firing_rate"] is None else f"{one['firing_rate']:.4f}"),
        ]
        for name, one in parts
    ]


def _prices(row: Told) -> list[list[str]]:
    return [
        [
            *(one["prices"], f"{one['operations_mj']:.4g}"),
            "-" if one["memory_mj"] is None else f"{one['memory_mj']:.4g}",
            *(f"{one['mj']:.4g}", f"{one['ann_mj']:.4g}", _rate(one["break_even_rate"])),
        ]
        for one in row["prices"]
    ]


def _rate(rate: float | None) -> str:
    if rate is None:
        return "none"
    return "any" if rate > 1 else f"{rate:.4f}"


def _beside(row: Told) -> dict[str, str]:
    """What others would say of the same images."""
    multiply, add = FLOAT.multiply, FLOAT.add
    return {
        "Eqs 109-110, firing rate x FLOP": f"{row['conventional_mj']:.4g} mJ",
        "sums of spikes multiplied once, not added": f"{row['multiplied_mj']:.4g} mJ",
        "BatchNorm, if it were not folded": f"{amount(row['norm'])} MAC, {row['norm'] * (multiply + add) / 1e9:.4g} mJ",
    }


def amount(number: float) -> str:
    """A number of operations: 950, 12.3 k, 4.56 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([one[0].ljust(widths[0]), *(w.rjust(n) for w, n in zip(one[1:], widths[1:], strict=True))])
        for one in (head, *rows)
    ]


def write(path: Path, row: Told) -> None:
    """The numbers as one page of HTML that needs nothing else."""
    write_atomic(path, marked(path.suffix, _page(row)).encode())


def _page(row: Told) -> str:
    source, scripts = page.text(row["model"]), [page.plotly(), page.SCRIPT]
    facts = [[page.head_cell(page.text(name)), page.cell(page.text(value))] for name, value in _beside(row).items()]
    plots = (_of_units(row), _of_steps(row))
    drawn = (page.plot(f"figure-{n}", title, figure, height) for n, (title, figure, height) in enumerate(plots, 1))
    unknown = "".join(f'<p class="missing">{page.text(line)}.</p>\n' for line in row["unknown"])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{page.policy(scripts)}"/>\n'
        f'<meta name="generator" content="tdformer"/>\n<title>Energy of {source}</title>\n'
        f"<style>{page.STYLE}</style>\n</head>\n<body>\n<h1>Energy</h1>\n<p>{page.text(table(row)[0])}</p>\n{unknown}"
        f"<p>Energies of operations at {FLOAT.multiply} pJ a multiplication and {FLOAT.add} pJ an addition.</p>\n"
        f"{_html(PARTS, _parts(row))}{_html(MODELS, _prices(row))}{page.table([], facts)}"
        + "".join(f"<h2>{title}</h2>\n{figure}" for (title, _, _), figure in zip(plots, drawn, strict=True))
        + "<h2>Sources</h2>\n<ul>\n"
        + "".join(f"<li>{page.text(one['prices'])}: {page.text(one['source'])}</li>\n" for one in row["prices"])
        + f'</ul>\n<script type="application/json" id="numbers">{page.embedded(row)}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[page.head_cell(page.text(one[0])), *(page.cell(page.text(word)) for word in one[1:])] for one in rows]
    return page.table([page.text(name) for name in head], cells)


def _of_units(row: Told) -> tuple[str, dict[str, object], int]:
    units = row["units"][::-1]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": kind,
            "y": [page.text(one["unit"]) for one in units],
            "x": [1000 * one["mj_by_kind"][kind] for one in units],
            "marker": {"color": colour},
        }
        for kind, colour in zip(KINDS, COLOURS, strict=False)
    ]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "µJ an image"}}, "yaxis": {"automargin": True}}
    return "By unit", {"data": traces, "layout": layout}, 120 + 18 * len(units)


def _of_steps(row: Told) -> tuple[str, dict[str, object], int]:
    names = [one["part"] for one in row["parts"]]
    traces = [
        {
            "type": "bar",
            "name": page.text(name),
            "x": [one["step"] for one in row["steps"]],
            "y": [1000 * one["mj_by_part"].get(name, 0.0) for one in row["steps"]],
            "marker": {"color": COLOURS[i % len(COLOURS)]},
        }
        for i, name in enumerate(names)
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "time step"}, "dtick": 1},
        "yaxis": {"title": {"text": "µJ an image"}},
    }
    return "By time step", {"data": traces, "layout": layout}, 420
