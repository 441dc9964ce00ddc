"""Event-driven against dense convolution on the CPU, by the share of inputs that are not zero.

    python -m benchmarks.events [--rounds 9]

The convolutions of hst_10_768 for one image of 224 x 224, T = 4, and of the quick start for 64. A ratio is the median
over the rounds of PyTorch's time divided by that of finding and multiplying the events; `tdformer.kernels.sparse` takes
events up to its DENSEST, from SMALLEST inputs, 2 PIXELS a plane and FEWEST channels out on.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: or threads that wait take the cores from the others

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from tdformer.kernels import sparse

from . import machine, table

SHAPES = [
    (4, 192, 192, 1, 56),
    (4, 192, 768, 1, 56),
    (4, 768, 192, 1, 56),
    (4, 384, 1536, 1, 28),
    (4, 1536, 384, 1, 28),
    (4, 768, 768, 1, 14),
    (4, 768, 3072, 1, 14),
    (4, 3072, 768, 1, 14),
    (4, 192, 384, 3, 56),
    (4, 384, 768, 3, 28),
    (128, 24, 48, 3, 14),
    (128, 24, 24, 1, 7),
    (128, 96, 384, 1, 2),
]
"""T B, channels in, out, kernel, and height and width."""
DENSITIES = (0.02, 0.05, 0.1, 0.2)


def ratio(shape: tuple[int, ...], density: float, rounds: int) -> float:
    images, channels, out, kernel, size = shape
    x, weight = (torch.rand(images, channels, size, size) < density).float(), torch.randn(out, channels, kernel, kernel)
    found = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        F.conv2d(x, weight, None, 1, kernel // 2)
        middle = time.perf_counter()
        sparse.Events(x, kernel, kernel // 2).convolve(weight, None)
        found.append((middle - begun) / (time.perf_counter() - middle))
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.events")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.manual_seed(0)
    print(f"{machine()}; fp32, {given.rounds} rounds\n", flush=True)
    rows = [[str(list(shape)), *(f"{ratio(shape, d, given.rounds):.2f}" for d in DENSITIES)] for shape in SHAPES]
    print(table(["images, in, out, kernel, size", *(f"{d:.0%} not zero" for d in DENSITIES)], rows))


if __name__ == "__main__":
    main()
