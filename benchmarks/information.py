"""Corrections of the bias of a mutual information between binary features, on samples whose true value is known.

    python -m benchmarks.information [--repeats 10]

Each image has 49 positions. At each, X and Y are drawn from one 2 x 2 table p: with probability 0.5 it is the draw of
the whole image, else one of its own. So p is the law of every position, and the information is that of p, while the
positions of an image depend on each other. "joint" are 4 such channels, independent of each other, as one variable of
16 values. Errors are those of the mean over 32 channels (8 groups), as `tdformer.measure.information` gives it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdformer.measure.information import mutual_information, plug_in

from . import machine, table

POSITIONS, CHANNELS, SHARED = 49, 32, 0.5
LAWS = {
    "independent, rate 0.05": (0.05, 0.05, 0.0025),
    "independent, rate 0.3": (0.3, 0.3, 0.09),
    "rate 0.05, half shared": (0.05, 0.05, 0.025),
    "rate 0.3, half shared": (0.3, 0.3, 0.15),
    "identical, rate 0.1": (0.1, 0.1, 0.1),
}
"""P(X = 1), P(Y = 1), P(both)."""


def law(name: str) -> NDArray[np.float64]:
    """`[2, 2]`: the probability of X and Y."""
    x, y, both = LAWS[name]
    return np.array([[1 - x - y + both, y - both], [x - both, both]])


def truth(p: NDArray[np.float64]) -> float:
    """Bits."""
    return float(plug_in(torch.from_numpy(p)[None, :, None])[0, 0])


def sample(p: NDArray[np.float64], images: int, rng: np.random.Generator) -> Tensor:
    """Spikes of two steps, `[2, B, C, P]`."""
    edges, shape = p.ravel().cumsum()[:3], (images, CHANNELS, POSITIONS)
    whole, own = (np.searchsorted(edges, rng.random(size)) for size in ((images, CHANNELS, 1), shape))
    cell = np.where(rng.random(shape) < SHARED, whole, own)
    return torch.from_numpy(np.stack([cell // 2, cell % 2]) > 0)


def counted(spikes: Tensor, group: int) -> NDArray[np.float64]:
    """`[F, K, K]`, the table of each feature over images and positions."""
    bits = spikes.permute(0, 2, 1, 3).flatten(2).unflatten(1, (-1, group)).numpy()
    values = sum(bits[:, :, i].astype(int) << i for i in range(group))
    states = 2**group
    return np.stack([np.bincount(x * states + y, minlength=states**2) for x, y in zip(*values, strict=True)]).reshape(
        -1, states, states
    )


def miller_madow(t: NDArray[np.float64]) -> float:
    """The bias, in bits, by the cells that are not empty (Miller 1955): of H(X) + H(Y) - H(X, Y)."""
    rows, columns, cells = (t.sum(1) > 0).sum(), (t.sum(0) > 0).sum(), (t > 0).sum()
    return (cells - rows - columns + 1) / (2 * t.sum() * np.log(2))


def panzeri_treves(t: NDArray[np.float64]) -> float:
    """The same, with the number of values that Y can have, given each X, guessed from those that it had (Panzeri and
    Treves 1996)."""
    given = sum(possible(row) - 1 for row in t if row.sum())
    return (given - (possible(t.sum(0)) - 1)) / (2 * t.sum() * np.log(2))


def possible(counts: NDArray[np.float64]) -> int:
    """How many values a variable has, if as many of them were expected to occur as did: those that did not share what
    a Bayesian would leave them."""
    n, seen, most = counts.sum(), counts[counts > 0], len(counts)
    best, before = len(seen), abs(float(((1 - seen / n) ** n).sum()))
    for more in range(1, most - len(seen) + 1):
        left = more * (1 - (n / (n + len(seen))) ** (1 / n))
        known = (1 - left) * (seen + 1) / (n + len(seen))
        expected = (1 - (1 - known) ** n).sum() + more * (1 - (1 - left / more) ** n)
        if (now := abs(len(seen) - expected)) >= before:
            break
        best, before = len(seen) + more, now
    return best


def estimates(spikes: Tensor, group: int, rng: np.random.Generator) -> dict[str, float]:
    """Bits of a feature by each correction."""
    tables = counted(spikes, group)
    found = mutual_information(spikes, rng, 0, group)
    plain = float(found.plain[0, 1])
    order = np.argsort(rng.random(spikes.shape[1]))
    shuffled = plug_in(torch.from_numpy(counted(torch.stack([spikes[0][order], spikes[1]]), group))[:, None, :, None])
    return {
        "none": plain,
        "Miller-Madow": plain - float(np.mean([miller_madow(t) for t in tables])),
        "Panzeri-Treves": plain - float(np.mean([panzeri_treves(t) for t in tables])),
        "shuffle": plain - float(shuffled.mean()),
        "jackknife": float(found.bits[0, 1]),
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.information")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--images", type=int, nargs="+", default=[32, 125, 500])
    given = parser.parse_args(words)
    rng = np.random.Generator(np.random.Philox(0))
    rows: list[list[str]] = []
    for name in LAWS:
        for group in (1, 4):
            true = group * truth(law(name))
            for images in given.images:
                if images < (2**group - 1) ** 2:
                    continue
                errors: dict[str, list[float]] = {}
                for _ in range(given.repeats):
                    for by, bits in estimates(sample(law(name), images, rng), group, rng).items():
                        errors.setdefault(by, []).append(1e4 * (bits - true))
                cells = [f"{np.mean(own):+.2f} ({np.sqrt(np.mean(np.square(own))):.2f})" for own in errors.values()]
                rows.append([name + (", joint" if group > 1 else ""), str(images), f"{1e4 * true:.1f}", *cells])
    print(f"{machine()}; {given.repeats} repeats. In 1e-4 bits: mean error (root of the mean square)\n")
    print(table(["X and Y", "images", "truth", *errors], rows))


if __name__ == "__main__":
    main()
