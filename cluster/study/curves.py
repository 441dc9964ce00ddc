"""Fits of a curve through cells: power laws, scaling laws, lines, parallel runs, the price of checkpoints."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..plan.interval import daly
from .fitted import LEVEL, Estimate, Fit, Point, Refused, Spec, enough, interval, number, usable
from .separable import Array, Form, Solution, at_limit, solve
from .table import Row

RESAMPLES = 200
SPARE = 2
"""Cells beyond the number of parameters, or their scatter tells nothing."""


@dataclass(frozen=True, kw_only=True)
class Curve(Spec):
    """held_out: share of the cells, the largest ones, that are predicted and not fitted; robust: Huber's loss instead
    of squares."""

    held_out: float = 0.2
    robust: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out:g}; it takes a share from 0 to below 1")

    def form(self) -> Form:
        raise NotImplementedError

    def prepared(self, row: Row) -> tuple[list[float], float]:
        """x and y of a usable row."""
        return [number(row, column) or 0.0 for column in self.x], number(row, self.y) or 0.0

    def axes(self) -> tuple[tuple[str, ...], str]:
        """What x and y of `prepared` are."""
        return self.x, self.y

    def needs(self) -> tuple[str, ...]:
        """Columns in which a row must have a number."""
        return (*self.x, self.y)

    def size(self, row: Row) -> float:
        """By which the largest are held out."""
        return math.prod(abs(number(row, column) or 0.0) for column in self.x)

    def check(self, x: Array, y: Array) -> None:
        """Raises Refused where these cells cannot tell the parameters."""

    def look(self, found: Solution) -> None:
        """Raises Refused where what was found says that the cells are on no such curve."""

    def derived(self, x: Array, found: Solution) -> dict[str, float]:
        """What follows from the parameters."""
        return {}

    def fit(self, rows: Sequence[Row]) -> Fit:
        rows, said = usable(rows, self.needs())
        form = self.form()
        x, y = (np.array(side, dtype=float) for side in zip(*map(self.prepared, rows), strict=True))
        if form.relative and (bad := [row for row, value in zip(rows, y, strict=True) if value <= 0]):
            raise Refused(
                f"{self.y} of cell {bad[0].get('cell')} is {number(bad[0], self.y):g}; this kind takes y above 0"
            )
        held, refused = self._held(rows, x, y)
        kept = ~held
        found = solve(form, x[kept], y[kept], self.robust)
        self.look(found)
        notes = [note for note in (said, refused) if note]
        draws = _resampled(self, form, x[kept], y[kept], found)
        values = _named(self, form, x, found)
        spread = [_named(self, form, x, one) for one in draws]
        parameters = {name: Estimate(value, *interval([one[name] for one in spread])) for name, value in values.items()}
        points = [
            Point(str(row.get("cell")), _plain(at), float(value), float(fitted), bool(out))
            for row, at, value, fitted, out in zip(rows, x, y, found(form, x), held, strict=True)
        ]
        axes, note = self.axes(), "; ".join(notes) or None
        return Fit(self.name, *axes, form.formula, parameters, points, note, _curve(form, x, found, draws))

    def _held(self, rows: Sequence[Row], x: Array, y: Array) -> tuple[Array, str | None]:
        """Which cells are held out: the largest, repeats of one together, if the others are enough. Raises Refused
        where all together are not."""
        self._check(x, y)
        sizes = np.array([self.size(row) for row in rows])
        different = np.unique(sizes)
        count = math.ceil(self.held_out * len(different))
        if not count:
            return np.zeros(len(rows), dtype=bool), None
        held = sizes >= different[-count]
        try:
            self._check(x[~held], y[~held])
        except Refused as refused:
            return np.zeros(len(rows), dtype=bool), f"no cell is held out: without the largest, {refused}"
        return held, None

    def _check(self, x: Array, y: Array) -> None:
        enough(len(y), self.form().size + SPARE)
        if np.ptp(y) <= 1e-12 * np.max(np.abs(y)):
            raise Refused(f"all {len(y)} cells have the same {self.y}, {y[0]:g}: there is nothing to fit")
        self.check(x, y)


def _plain(x: Array) -> float | list[float]:
    return float(x[0]) if len(x) == 1 else [float(value) for value in x]


def _named(curve: Curve, form: Form, x: Array, found: Solution) -> dict[str, float]:
    return dict(zip(form.names, map(float, found.values), strict=True)) | curve.derived(x, found)


def _resampled(curve: Curve, form: Form, x: Array, y: Array, found: Solution) -> list[Solution]:
    """Fits of y with residuals of other cells. With few cells residuals are too small, because the curve was drawn
    through them, and their own spread is uncertain: they are widened by sqrt(n / (n - p)) and by Student's quantile
    over the normal one, for p parameters. The seed is the fit's name."""
    fitted = found(form, x)
    scale = fitted if form.relative else np.ones(len(y))
    rest = (y - fitted) / scale
    spare = len(y) - form.size
    end = (1 + LEVEL) / 2
    rest = (rest - rest.mean()) * math.sqrt(len(y) / spare) * stats.t.ppf(end, spare) / stats.norm.ppf(end)
    random = np.random.default_rng(zlib.crc32(curve.name.encode()))
    draws = []
    for _ in range(RESAMPLES):
        again = fitted + scale * random.choice(rest, len(y))
        if form.relative:
            again = np.maximum(again, 1e-3 * fitted)
        draws.append(solve(form, x, again, curve.robust, found.exponents))
    return draws


def _curve(form: Form, x: Array, found: Solution, draws: Sequence[Solution]) -> list[dict[str, float]]:
    """Rows to draw, where there is one axis."""
    if x.shape[1] > 1:
        return []
    low, high = float(x.min()), float(x.max())
    at = np.geomspace(low, high, 40) if low > 0 else np.linspace(low, high, 40)
    band = np.array([one(form, at[:, None]) for one in draws])
    ends = np.quantile(band, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    rows = zip(at, found(form, at[:, None]), *ends, strict=True)
    return [dict(zip(("x", "y", "low", "high"), map(float, row), strict=True)) for row in rows]


def levels(values: Array, needed: int, what: str) -> None:
    """Raises Refused where an axis has too few different values."""
    enough(len(np.unique(values)), needed, f"different values of {what}")


@dataclass(frozen=True, kw_only=True)
class ScalingLaw(Curve):
    """y = (E + sum over x of A x^-alpha) times the product over `factors` of z^gamma.

    What several axes have in common beyond this, such as terms of their products, a grid of few cells does not tell."""

    factors: tuple[str, ...] = ()

    def axes(self) -> tuple[tuple[str, ...], str]:
        return (*self.x, *self.factors), self.y

    def needs(self) -> tuple[str, ...]:
        return (*self.x, *self.factors, self.y)

    def prepared(self, row: Row) -> tuple[list[float], float]:
        return [number(row, column) or 0.0 for column in (*self.x, *self.factors)], number(row, self.y) or 0.0

    def form(self) -> Form:
        terms = len(self.x)
        of = [f"[{axis}]" for axis in self.x] if terms > 1 else [""]
        gains = "".join(f" {z}^gamma[{z}]" for z in self.factors)
        law = " + ".join(["E", *(f"A{its} {axis}^-alpha{its}" for its, axis in zip(of, self.x, strict=True))])

        def basis(theta: Array, x: Array) -> Array:
            powers = x[:, :terms] ** -theta[:terms]
            gain = np.prod(x[:, terms:] ** theta[terms:], axis=1)
            columns: Array = np.column_stack([np.ones(len(x)), powers]) * gain[:, None]
            return columns

        return Form(
            f"{self.y} = ({law}){gains}" if gains else f"{self.y} = {law}",
            ("E", *(f"A{its}" for its in of)),
            (*(f"alpha{its}" for its in of), *(f"gamma[{z}]" for z in self.factors)),
            basis,
            signed=len(self.factors),
        )

    def size(self, row: Row) -> float:
        """Operations of training where the table has them, or what is in proportion to them."""
        for columns in (("flop_image", "images"), ("parameters", "images")):
            values = [number(row, column) for column in columns]
            if all(values):
                return math.prod(value or 0.0 for value in values)
        return super().size(row)

    def check(self, x: Array, y: Array) -> None:
        """Each term has two parameters beside the common E, each factor one; and axes that grow together cannot be told
        apart."""
        axes = (*self.x, *self.factors)
        for place, column in enumerate(axes):
            if np.any(x[:, place] <= 0):
                raise Refused(f"{column} is not above 0 in every cell: no power of it")
            levels(x[:, place], 3 if place < len(self.x) else 2, column)
        logs = np.log(x)
        logs = (logs - logs.mean(axis=0)) / logs.std(axis=0)
        if np.linalg.svd(logs, compute_uv=False)[-1] < 0.05 * math.sqrt(len(x)):
            raise Refused(f"{', '.join(axes)} grow together in these cells: fit one of them, or vary them apart")

    def look(self, found: Solution) -> None:
        for column, factor, exponent in zip(self.x, found.factors[1:], found.exponents, strict=False):
            if factor == 0 or at_limit(float(exponent)):
                raise Refused(f"{self.y} does not fall with a power of {column} in these cells")


@dataclass(frozen=True, kw_only=True)
class Power(ScalingLaw):
    """y = E + A x^-alpha."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.x) != 1 or self.factors:
            raise ValueError("power takes one x and no factors; scaling_law takes more")


@dataclass(frozen=True, kw_only=True)
class Linear(Curve):
    """y = constant + sum of slope x, by plain least squares."""

    def form(self) -> Form:
        slopes = tuple(f"slope[{axis}]" for axis in self.x)
        return Form(
            f"{self.y} = " + " + ".join(["constant", *(f"{s} {axis}" for s, axis in zip(slopes, self.x, strict=True))]),
            ("constant", *slopes),
            (),
            lambda _, x: np.column_stack([np.ones(len(x)), x]),
            free=True,
            relative=False,
        )

    def check(self, x: Array, y: Array) -> None:
        for place, column in enumerate(self.x):
            levels(x[:, place], 2, column)
        if np.linalg.matrix_rank(np.column_stack([np.ones(len(x)), x / np.abs(x).max(axis=0)]), tol=1e-6) <= x.shape[1]:
            raise Refused(f"{', '.join(self.x)} grow together in these cells: fit one of them, or vary them apart")


@dataclass(frozen=True, kw_only=True)
class Parallel(Curve):
    """Seconds of a step on a number of ranks."""

    y: str = "seconds_step"
    x: tuple[str, ...] = ("world",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.x) != 1:
            raise ValueError("x is one column, the number of ranks")

    def same(self, images: float, world: float) -> float:
        """Of the images of a step on `world` ranks, what has to be the same in all cells."""
        raise NotImplementedError

    def ideal(self, world: float) -> float:
        """The time on `world` ranks over that on one, if others cost nothing."""
        raise NotImplementedError

    def fit(self, rows: Sequence[Row]) -> Fit:
        columns = ("images", "steps", self.x[0])
        known = [[number(row, column) or 0.0 for column in columns] for row in usable(rows, self.needs())[0]]
        found = {round(self.same(images / steps, world), 6) for images, steps, world in known if images and steps}
        if len(found) > 1:
            words = ", ".join(f"{images:g}" for images in sorted(found))
            raise Refused(f"cells differ in the images of a step that should be the same: {words}; choose by `where`")
        return super().fit(rows)

    def check(self, x: Array, y: Array) -> None:
        levels(x, 3, self.x[0])

    def derived(self, x: Array, found: Solution) -> dict[str, float]:
        most = float(x.max())
        one, many = found(self.form(), np.array([[1.0], [most]]))
        return {f"efficiency at {most:g}": float(one * self.ideal(most) / many)}


class Amdahl(Parallel):
    """Strong scaling: t(p) = serial + parallel / p + each (p - 1), for one global batch.

    A ring's bytes cost (p - 1) / p, which is 1 - 1/p: they are in `serial`, and lower `parallel`."""

    def same(self, images: float, world: float) -> float:
        return images

    def ideal(self, world: float) -> float:
        return 1 / world

    def form(self) -> Form:
        p = self.x[0]
        return Form(
            f"{self.y} = serial + parallel / {p} + each ({p} - 1)",
            ("serial", "parallel", "each"),
            (),
            lambda _, x: np.column_stack([np.ones(len(x)), 1 / x[:, 0], x[:, 0] - 1]),
        )

    def derived(self, x: Array, found: Solution) -> dict[str, float]:
        serial, parallel, _ = map(float, found.factors)
        share = serial / (serial + parallel) if serial else 0.0
        return {"serial share": share, **super().derived(x, found)}


class Efficiency(Parallel):
    """Weak scaling: t(p) = local + ring (p - 1) / p + each (p - 1), for one number of images a rank."""

    def same(self, images: float, world: float) -> float:
        return images / world

    def ideal(self, world: float) -> float:
        return 1.0

    def form(self) -> Form:
        p = self.x[0]
        return Form(
            f"{self.y} = local + ring ({p} - 1) / {p} + each ({p} - 1)",
            ("local", "ring", "each"),
            (),
            lambda _, x: np.column_stack([np.ones(len(x)), 1 - 1 / x[:, 0], x[:, 0] - 1]),
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Curve):
    """What a save costs: of GPU-hours, bad.checkpoint / good = stall / (steps between saves times seconds of a step).

    failures: expected, of a GPU in an hour; with it follows after how many seconds to save on `gpus` (Daly 2006)."""

    y: str = "bad.checkpoint"
    x: tuple[str, ...] = ("axis.checkpoint.every_steps",)
    failures: float | None = None
    gpus: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.x) != 1:
            raise ValueError("x is one column, the steps between saves")
        if self.failures is not None and self.failures <= 0:
            raise ValueError(f"failures is {self.failures:g}; it takes a number above 0, of a GPU in an hour")
        if self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}; it takes a number from 1")

    def axes(self) -> tuple[tuple[str, ...], str]:
        return ("seconds between saves",), f"{self.y} / good"

    def needs(self) -> tuple[str, ...]:
        return (*self.x, self.y, "good", "seconds_step")

    def prepared(self, row: Row) -> tuple[list[float], float]:
        between, bad, good, step = (number(row, column) or 0.0 for column in self.needs())
        if not good or between * step <= 0:
            raise Refused(f"cell {row.get('cell')} has no good time between saves")
        return [between * step], bad / good

    def form(self) -> Form:
        law = f"{self.y} / good = stall / ({self.x[0]} seconds_step)"
        return Form(law, ("stall",), (), lambda _, x: 1 / x)

    def derived(self, x: Array, found: Solution) -> dict[str, float]:
        if self.failures is None:
            return {}
        stall = float(found.factors[0])
        return {f"best interval on {self.gpus}": daly(stall, 3600 / (self.failures * self.gpus))}
