"""A training step on a CPU with the heap that keeps what it frees (cluster/build/heap.py), against glibc's own way.

    python -m benchmarks.heap [--rounds 5]

One thread, fp32, a process for each: the two take turns, and a ratio is of neighbours. Resident is the process's peak.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

import torch

import tdformer
from cluster.build import heap

from . import machine, table

STEPS, WARM = 12, 3


class Case(NamedTuple):
    model: str
    images: int
    size: int
    time_steps: int
    policy: str


CASES = [
    Case("quickstart", 64, 8, 4, "none"),
    Case("quickstart", 256, 8, 4, "none"),
    Case("hst_4_384", 4, 32, 4, "none"),
    Case("hst_4_384", 8, 32, 2, "block"),
    Case("sdt_2_256", 8, 32, 4, "none"),
    Case("spikformer_2_384", 4, 32, 4, "unit"),
]


def steps(case: Case) -> None:
    """Print the median seconds of a step, and the MiB that were resident."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heap.keep_freed()
    options = {"time_steps": case.time_steps, "image_size": case.size, "num_classes": 10}
    model = tdformer.create_model(case.model, **options)
    model.set_recompute(case.policy, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    images = torch.randn(case.images, model.config["in_channels"], case.size, case.size)
    targets, taken = torch.randint(10, (case.images,)), []
    for _ in range(STEPS):
        begun = time.perf_counter()
        tdformer.segment_loss(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(time.perf_counter() - begun)
    print(statistics.median(taken[WARM:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def child(number: int, kept: bool) -> tuple[float, float]:
    """Of a process: seconds and MiB."""
    given = {key: value for key, value in os.environ.items() if key not in heap.NAMES}
    given |= {} if kept else {"GLIBC_TUNABLES": ""}  # which leaves all to glibc
    command = [sys.executable, "-m", "benchmarks.heap", "--case", str(number)]
    seconds, mib = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.split()
    return float(seconds), float(mib)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", type=int, help="take the steps of this one, here")
    asked = parser.parse_args()
    if asked.case is not None:
        return steps(CASES[asked.case])
    rows = []
    for number, case in enumerate(CASES):
        pairs = [(child(number, True), child(number, False)) for _ in range(asked.rounds)]
        ratios = [kept[0] / given[0] for kept, given in pairs]
        words = [case.model, str(case.images), str(case.size), str(case.time_steps), case.policy]
        both = [f"{1e3 * statistics.median(one[i][0] for one in pairs):.1f}" for i in (1, 0)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        resident = [f"{statistics.median(one[i][1] for one in pairs):.0f}" for i in (1, 0)]
        rows.append([*words, *both, spread, *resident])
    head = ["model", "images", "pixels", "T", "policy", "glibc ms", "kept ms", "ratio", "glibc MiB", "kept MiB"]
    print(machine(), "\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
