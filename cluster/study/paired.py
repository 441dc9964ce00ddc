"""The same seeds with and without something: whether it makes a difference, and how large."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .fitted import LEVEL, Estimate, Fit, Point, Refused, Spec, enough, number, usable
from .table import Row

RESAMPLES = 2000
PAIRS = 3
"""Below which nothing is tested."""
RANKED = 6
"""From which on Wilcoxon's test can say p < 0.05: with 5 pairs the least is 2 / 2^5."""


@dataclass(frozen=True, kw_only=True)
class Paired(Spec):
    """x: the column that is compared, each of its values with `base`; over: the column that makes pairs, such as the
    seed. y is compared as it is."""

    base: str = "none"
    over: str = "axis.seed"

    def __post_init__(self) -> None:
        if len(self.x) != 1:
            raise ValueError("paired compares the values of one column x")

    def fit(self, rows: Sequence[Row]) -> Fit:
        rows, said = usable(rows, [self.y])
        (column,) = self.x
        for key in (column, self.over):
            if not any(row.get(key) is not None for row in rows):
                raise Refused(f"no finished cell has {key}")
        cells: dict[str, dict[str, Row]] = {}
        for row in rows:
            pairs = cells.setdefault(str(row.get(column)), {})
            if str(row.get(self.over)) in pairs:
                raise Refused(
                    f"two cells have {column}={row.get(column)} and {self.over}={row.get(self.over)}; choose by `where`"
                )
            pairs[str(row.get(self.over))] = row
        if self.base not in cells:
            raise Refused(
                f"no finished cell has {column}={self.base}, which `base` names; there are {', '.join(cells)}"
            )
        base = cells.pop(self.base)
        if not cells:
            raise Refused(f"no finished cell has another {column} than {self.base}")
        parameters: dict[str, Estimate] = {}
        points, notes, tests = [], [said] if said else [], {}
        for level, its in cells.items():
            seeds = [seed for seed in base if seed in its]
            name = f"{level} - {self.base}"
            try:
                enough(len(seeds), PAIRS, f"pairs of {name}")
            except Refused as refused:
                notes.append(str(refused))
                continue
            found = np.array([(number(its[s], self.y) or 0.0) - (number(base[s], self.y) or 0.0) for s in seeds])
            parameters |= {key.format(name): one for key, one in _figures(found, self.name).items()}
            tests[name] = parameters[f"p of t, {name}"].value
            mean = float(found.mean())
            points += [
                Point(str(its[s].get("cell")), s, float(value), mean, group=level)
                for s, value in zip(seeds, found, strict=True)
            ]
            if np.ptp(found) == 0:
                notes.append(f"{name}: all {len(found)} differences are {mean:g}, so there is nothing to test")
        if not parameters:
            raise Refused("; ".join(notes))
        parameters |= {f"p by Holm, {name}": Estimate(p) for name, p in holm(tests).items()}
        formula = f"{self.y}: mean difference to {column}={self.base} over {self.over}"
        axes = (self.over,), f"difference of {self.y}"
        return Fit(self.name, *axes, formula, _finite(parameters), points, "; ".join(notes) or None)


def mean_of(found: np.ndarray | Sequence[float], name: str) -> Estimate:
    """With its interval (BCa bootstrap), which fewer than PAIRS, and such as are all the same, have not. name: what the
    draws begin with."""
    if len(found) < PAIRS or np.ptp(found) == 0:
        return Estimate(float(np.mean(found)))
    random = np.random.default_rng(zlib.crc32(name.encode()))
    ends = stats.bootstrap(
        (np.asarray(found),), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa", rng=random
    ).confidence_interval
    return Estimate(float(np.mean(found)), float(ends.low), float(ends.high))


def _figures(found: np.ndarray, name: str) -> dict[str, Estimate]:
    """Of differences [n]: mean with its interval, deviation, Cohen's d_z and Hedges' g_z of it, t-test, Wilcoxon's
    test. What cannot be said is NaN."""
    count, deviation = len(found), float(found.std(ddof=1))
    p = ranks = size = math.nan
    if deviation > 0:
        p = float(stats.ttest_1samp(found, 0.0).pvalue)
        size = float(found.mean()) / deviation
        if count >= RANKED:
            ranks = float(stats.wilcoxon(found).pvalue)
    return {
        "difference, {}": mean_of(found, name),
        "pairs, {}": Estimate(count),
        "deviation, {}": Estimate(deviation),
        "d_z, {}": Estimate(size),
        "g_z, {}": Estimate(size * (1 - 3 / (4 * (count - 1) - 1))),
        "p of t, {}": Estimate(p),
        "p of Wilcoxon, {}": Estimate(ranks),
    }


def _finite(parameters: dict[str, Estimate]) -> dict[str, Estimate]:
    """Without what could not be said."""

    def or_none(value: float | None) -> float | None:
        return None if value is None or math.isnan(value) else value

    return {
        name: Estimate(one.value, or_none(one.low), or_none(one.high))
        for name, one in parameters.items()
        if not math.isnan(one.value)
    }


def holm(tests: Mapping[str, float]) -> dict[str, float]:
    """p values such that all comparisons together are wrong no more often than one would be (Holm 1979)."""
    known = sorted((p, name) for name, p in tests.items() if not math.isnan(p))
    found, least = {}, 0.0
    for place, (p, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * p))
        found[name] = least
    return {name: found[name] for name in tests if name in found}
