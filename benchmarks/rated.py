"""What the hook `energy` costs: a training step with its figure against one without.

    python -m benchmarks.rated [--rounds 5]

Steps with and without it take turns; seconds are those on a core (`time.process_time`), which other work on the machine
does not lengthen much, and the median is told. A run pays it in the steps that it logs, one of `log.every_steps`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

import tdformer
from cluster.config import Config
from tdformer.measure import measure_rated

from . import machine, table

CASES = [("quickstart", 64, "none"), ("quickstart", 64, "unit"), ("hst_4_384", 2, "none")]
"""Model, images, recompute policy."""


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def row(name: str, images: int, policy: str, rounds: int) -> list[str]:
    torch.manual_seed(0)
    model = tdformer.create_model(name, segments=2, feedback="all", recompute=policy)
    x = torch.rand(images, model.config["in_channels"], *model.config["image_size"])
    targets = torch.zeros(images, dtype=torch.long)

    def step(rated: bool) -> None:
        with measure_rated(model) if rated else nullcontext() as found:
            tdformer.segment_loss(model(x), targets).backward()
        model.zero_grad()
        if found is not None:
            float(found.pj)

    step(True)  # kernels are chosen, caches filled
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for rated, own in times.items():
            own.append(seconds(partial(step, rated)))
    without, with_it = (statistics.median(own) for own in times.values())
    share, every = with_it / without - 1, Config().log.every_steps
    return [name, str(images), policy, f"{without:.3f}", f"{with_it:.3f}", f"{share:.1%}", f"{share / every:.2%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    head = [
        "model",
        "images",
        "policy",
        "step s",
        "with it s",
        "more",
        f"of a run that logs 1 in {Config().log.every_steps}",
    ]
    print(machine(), table(head, [row(*case, rounds) for case in CASES]), sep="\n\n")


if __name__ == "__main__":
    main()
