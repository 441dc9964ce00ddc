"""Time of a training step and of evaluation, against the published style in the same run.

    python -m benchmarks.step [--model hst_10_768] [--rounds 7] [--batch 1]

fp32, T = 4, 224 x 224. The contenders take turns, so that all see the same machine; a ratio is the median over the
rounds of a contender's time divided by the baseline's in the same round. `convolutions` is the floor that a dense step
stands on: the convolutions of `unit`, alone, each as often as `unit` runs it. With spikingjelly installed its `memopt`
is a row too (`peer.py`).
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch: or threads that wait take the cores from the others

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tdformer
from tdformer import kernels
from tdformer.measure import measure_firing

from . import machine, peer, table
from .memory import model_of, words

Contender = tuple[int, tuple[object, ...]]
TRAIN: list[Contender] = [
    (1, ("published",)),
    (1, ("none",)),
    (1, ("unit",)),
    (2, ("unit",)),
    (2, ("unit", 2)),
    (4, ("unit",)),
    (4, ("unit", 2)),
]


def compared(contenders: dict[str, Callable[[], None]], rounds: int) -> list[list[str]]:
    """Each contender's name, median seconds, and median and range of its ratio to the first one's."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):  # the first one warms up
        for name, run in contenders.items():
            begun = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - begun)
    base = next(iter(times.values()))
    rows = []
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, base, strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        rows.append([name, f"{statistics.median(own):.2f}", f"{statistics.median(ratios):.3f}", spread])
    return rows


Convolution = tuple[Tensor, Tensor, int, int]


def convolutions(model: nn.Module, images: Tensor) -> list[Convolution]:
    """Input (random), weight, stride and padding of every convolution of one forward pass."""
    found: list[Convolution] = []
    real = kernels.convolve

    def recorded(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        found.append((torch.rand_like(x), weight.detach().clone(), stride, padding))
        return real(x, weight, bias, stride, padding)

    kernels.convolve = recorded
    try:
        with torch.no_grad():
            model(images)
    finally:
        kernels.convolve = real
    return found


def run_convolutions(calls: list[Convolution], forward: int, backward: int) -> None:
    for x, weight, stride, padding in calls:
        with torch.no_grad():
            for _ in range(forward):
                y = F.conv2d(x, weight, None, stride, padding)
            for _ in range(backward):
                kernels.convolve_backward(y, x, weight, stride, padding, (x.shape[1] > 3, True, False))


def training(name: str, batch: int, rounds: int, device: torch.device) -> str:
    images, labels = torch.rand(batch, 3, 224, 224, device=device), torch.zeros(batch, dtype=torch.long, device=device)

    def step(model: nn.Module) -> Callable[[], None]:
        def run() -> None:
            tdformer.segment_loss(model(images), labels).backward()
            model.zero_grad()

        return run

    torch.manual_seed(0)
    contenders = {
        f"{words(*policy)}, N = {n}": step(model_of(name, *policy, segments=n, time_steps=4).to(device).train())  # type: ignore[arg-type]
        for n, policy in TRAIN
    }
    calls = convolutions(model_of(name, "unit", segments=1, time_steps=4).to(device).train(), images)
    contenders["convolutions of unit, N = 1"] = lambda: run_convolutions(calls, 2, 1)
    if peer.INSTALLED:
        contenders["memopt, by block, N = 1"] = step(model_of(name, "memopt, by block", segments=1, time_steps=4))
    return table(["training step", "s", "ratio", "range"], compared(contenders, rounds))


def evaluation(name: str, batch: int, rounds: int, device: torch.device) -> str:
    """Running statistics are those of one batch, or a network that was never trained would be silent."""
    images = torch.rand(batch, 3, 224, 224, device=device)

    def run(model: nn.Module) -> Callable[[], None]:
        @torch.no_grad()
        def forward() -> None:
            model(images)

        return forward

    torch.manual_seed(0)
    models = {
        policy: model_of(name, policy, segments=1, time_steps=4).to(device).eval() for policy in ("published", "unit")
    }
    published, ours = models.values()
    for norm in (m for m in published.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = 1.0
    with torch.no_grad():
        published.train()(torch.rand(8, 3, 224, 224, device=device))
    published.eval()
    tdformer.load_pretrained(ours, published.state_dict())  # type: ignore[arg-type]
    with measure_firing(ours) as firing, torch.no_grad():
        ours(images)
    calls = convolutions(ours, images)
    contenders = {
        "published": run(published),
        "ours": run(ours),
        "convolutions of ours": lambda: run_convolutions(calls, 1, 0),
    }
    rows = compared(contenders, 3 * rounds)
    for row in rows:
        row.append(f"{1 / float(row[2]):.2f}")
    mean = sum(f.rate for f in firing.values()) / len(firing)
    return f"Mean firing rate {mean:.3f}.\n\n" + table(["evaluation", "s", "ratio", "range", "throughput"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.step")
    parser.add_argument("--model", default="hst_10_768")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{machine()}; {given.model}, batch {given.batch}, 224 x 224, T = 4, fp32, {given.rounds} rounds\n", flush=True
    )
    print(training(given.model, given.batch, given.rounds, device), "\n", flush=True)
    print(evaluation(given.model, given.batch, given.rounds, device))


if __name__ == "__main__":
    main()
