"""Least squares for y = sum of c_j phi_j(x; theta), which is linear in the c_j, by variable projection.

For each theta the best c is a linear problem that is solved exactly (Golub and Pereyra 1973), so only theta is
searched: from the best points of a grid, by Levenberg and Marquardt (`scipy.optimize.least_squares`) to the end of what
doubles can tell. A search over c and theta together ends early where the valley is flat, which is what made the
intervals of Chinchilla's third approach too narrow (Besiroglu et al. 2024, arXiv:2404.10102).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls

Array = np.ndarray

LIMITS = (1e-3, 10.0)
"""Of exponents that must be positive; the others are no further from 0. Nearer to 0, A x^-alpha is a constant and a
logarithm, and E is anything."""
GRID = (0.1, 0.25, 0.6, 1.5)
"""Where positive exponents are begun; free ones at their like in both directions."""
STARTS = 4
"""How many points of the grid are gone on from."""
HUBER = 1.345
"""Standard deviations, beyond which a residual counts linearly: 95 % as efficient as least squares for normal noise."""


@dataclass(frozen=True)
class Form:
    """factors, exponents: names of c and theta; basis: of theta [k] and x [n, axes] the phi [n, m]; free: the c may be
    negative; signed: of exponents, the last so many may be; relative: residuals are shares of y, else in its units."""

    formula: str
    factors: tuple[str, ...]
    exponents: tuple[str, ...]
    basis: Callable[[Array, Array], Array]
    free: bool = False
    signed: int = 0
    relative: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return self.factors + self.exponents

    @property
    def size(self) -> int:
        """How many parameters."""
        return len(self.names)


class Solution(NamedTuple):
    """factors [m], exponents [k]; rest [n]: weighted residuals."""

    factors: Array
    exponents: Array
    rest: Array

    @property
    def cost(self) -> float:
        return float(self.rest @ self.rest)

    def __call__(self, form: Form, x: Array) -> Array:
        """y at x [n, axes]."""
        y: Array = form.basis(self.exponents, x) @ self.factors
        return y

    @property
    def values(self) -> Array:
        return np.concatenate([self.factors, self.exponents])


def solve(form: Form, x: Array, y: Array, robust: bool = False, start: Array | None = None) -> Solution:
    """The best parameters for y [n] at x [n, axes]. robust: with Huber's loss, by weights that follow from residuals;
    start: exponents to begin with instead of the grid."""
    scale = np.abs(y) if form.relative else np.full(len(y), np.sqrt(np.mean(y**2)))
    weights = 1 / scale
    starts = _grid(form, x, y, weights) if start is None else [start]
    found = min((_search(form, x, y, weights, begin) for begin in starts), key=lambda one: one.cost)
    for _ in range(20 if robust else 0):
        rest = (found(form, x) - y) / scale
        limit = HUBER * 1.4826 * float(np.median(np.abs(rest)))
        if limit < 1e-12:  # half of the points are met exactly
            break
        weights = np.sqrt(np.minimum(1.0, limit / np.maximum(np.abs(rest), limit))) / scale
        before, found = found, _search(form, x, y, weights, found.exponents)
        if np.allclose(before.values, found.values, rtol=1e-7, atol=0):
            break
    return found


def _grid(form: Form, x: Array, y: Array, weights: Array) -> list[Array]:
    signed = [-1.0, -0.3, 0.3, 1.0]
    axes = [GRID] * (len(form.exponents) - form.signed) + [signed] * form.signed
    points = [np.array(point) for point in product(*axes)]
    return sorted(points, key=lambda point: _project(form, point, x, y, weights).cost)[:STARTS]


def _project(form: Form, exponents: Array, x: Array, y: Array, weights: Array) -> Solution:
    """The best factors for these exponents. Columns are brought to length 1, since x is 1e9 as easily as 1."""
    weighted = form.basis(exponents, x) * weights[:, None]
    lengths = np.linalg.norm(weighted, axis=0)
    lengths[lengths == 0] = 1.0
    goal = y * weights
    if form.free:
        factors = np.linalg.lstsq(weighted / lengths, goal, rcond=None)[0]
    else:
        factors = nnls(weighted / lengths, goal)[0]
    factors = factors / lengths
    return Solution(factors, exponents, weighted @ factors - goal)


def _search(form: Form, x: Array, y: Array, weights: Array, start: Array) -> Solution:
    if not len(start):
        return _project(form, start, x, y, weights)
    plain = len(start) - form.signed

    def exponents(searched: Array) -> Array:
        """Positive ones are searched by their logarithm."""
        signed = np.clip(searched[plain:], -LIMITS[1], LIMITS[1])
        return np.concatenate([np.exp(np.clip(searched[:plain], *np.log(LIMITS))), signed])

    def rest(searched: Array) -> Array:
        return _project(form, exponents(searched), x, y, weights).rest

    begin = np.concatenate([np.log(start[:plain]), start[plain:]])
    end = least_squares(rest, begin, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400)
    return _project(form, exponents(end.x), x, y, weights)


def at_limit(exponent: float) -> bool:
    """Whether the search for it has ended at one of LIMITS."""
    return not LIMITS[0] * 1.01 < exponent < LIMITS[1] * 0.99
