"""Plans against what was measured: memory and seconds of a step on this CPU, and of an H100's published rows.

    python -m benchmarks.plan [--worlds 1 2 4] [--clock wall|cores] [--gpu-only]

On this CPU each case is planned with rates that were fitted to all others on as many processes (leave one out); memory
is counted, and nothing is fitted. Of the H100 the rows are those of results/gpu.md, fitted with torch's profile of two
of them; each is planned with rates that were fitted without it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import tdformer
from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.config.shape import Shape
from cluster.jobs import calibration
from cluster.plan import rates
from cluster.plan.absent import setup_of
from cluster.plan.machine import Machine
from cluster.plan.predict import predict
from tdformer.measure import Work, measure_step

from . import machine, table


class Case(NamedTuple):
    """images: of a process; together: whether all processes' are one norm batch."""

    model: str
    dataset: str
    images: int
    time_steps: int
    segments: int
    policy: str
    together: bool = False

    def config(self, world: int, shards: Path) -> Config:
        batch = self.images * world
        words = {
            "data.dataset": self.dataset,
            "data.root": shards / self.dataset,
            "model.name": self.model,
            "model.time_steps": self.time_steps,
            "model.segments": self.segments,
            "model.feedback": "all" if self.segments > 1 else "none",
            "recompute.policy": self.policy,
            "train.global_batch": batch,
            "train.micro_batch": self.images,
            "train.norm_batch": batch if self.together else self.images,
            "train.threads": 1,
        }
        return load(None, [f"{key}={value}" for key, value in words.items()])

    def words(self) -> list[str]:
        norm = "all" if self.together else "a rank"
        return [self.model, *map(str, (self.images, self.time_steps, self.segments)), self.policy, norm]


CASES = [
    Case("quickstart", "digits", 64, 4, 2, "none"),
    Case("quickstart", "digits", 64, 4, 2, "unit"),
    Case("quickstart", "digits", 128, 2, 1, "none"),
    Case("quickstart", "digits", 32, 8, 4, "block"),
    Case("quickstart", "digits", 64, 4, 1, "none", together=True),
    Case("hst_4_384", "cifar10", 4, 4, 1, "none"),
    Case("hst_4_384", "cifar10", 2, 4, 2, "unit"),
    Case("hst_4_384", "cifar10", 8, 2, 1, "block"),
    Case("sdt_2_256", "cifar10", 8, 4, 1, "none"),
    Case("spikformer_2_384", "cifar10", 4, 4, 2, "block"),
]


def on_cpu(worlds: Sequence[int], clock: str) -> Iterator[list[str]]:
    """A row for each case and number of processes; its errors are of memory and of seconds."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards("digits", Path(folder, "digits"))
        for world in worlds:
            cases = [case.config(world, Path(folder)) for case in CASES]
            taken, network = calibration.steps(cases, world, memory=True)
            setups = [setup_of(config, world) for config in cases]
            seconds = [getattr(one, {"wall": "seconds", "cores": "cores"}[clock]) for one in taken]
            timed = [
                calibration.without_exchange(setup, one, network) for setup, one in zip(setups, seconds, strict=True)
            ]
            for i, (case, setup, took) in enumerate(zip(CASES, setups, taken, strict=True)):
                fitted = rates.fitted(timed[:i] + timed[i + 1 :], "the other cases")
                here = Machine.unknown(setup.config, Shape(1, world, 0)).timed(fitted, network, None)
                plan = predict(setup, Shape(1, world, 0), None, here)
                gib, step = plan.memory["total"].value, plan.step["total"].value
                assert gib is not None and step is not None
                mib = took.peak / 2**20
                errors = [gib * 1024 / mib - 1, step / seconds[i] - 1]
                shown = [f"{mib:.2f}", f"{gib * 1024:.2f}", f"{errors[0]:+.1%}"]
                yield [str(world), *case.words(), *shown, f"{seconds[i]:.3f}", f"{step:.3f}", f"{errors[1]:+.1%}"]


# --------------------------------------------------------------------------------------------------------------- H100

KINDS = ("matrix_flop", "matrix_byte", "neuron_byte", "other_byte", "packing_byte", "operator_us")
"""What rates.yaml has of the device, in the order of `counts`."""
PROFILED = 0.5
"""The weight of a part in the profile, beside a whole step's 1."""


def work_of(row: dict[str, Any]) -> Work:
    """Of a step of rates.yaml."""
    with torch.device("meta"):
        feedback = "none" if row["segments"] == 1 else "all"
        options = {"time_steps": 4, "segments": row["segments"], "feedback": feedback, "image_size": row["size"]}
        model = tdformer.create_model("hst_10_768", **options)
        model.set_recompute(row["policy"], row["borders"])
        return measure_step(model, torch.zeros(row["images"], 3, row["size"], row["size"]), True)[0].work


def counts(work: Work) -> NDArray[np.float64]:
    """TFLOP, GB and thousands of operators, whose milliseconds are fitted."""
    flops, moved = work.matrix_flops + work.attention_flops, work.other_bytes + work.attention_bytes
    parts = [flops / 1e12, work.matrix_bytes / 1e9, work.neuron_bytes / 1e9, moved / 1e9, work.packing_bytes / 1e9]
    return np.array([*parts, work.operators / 1e3])


def device_fit(
    steps: Sequence[dict[str, Any]], works: Sequence[Work], profile: Sequence[dict[str, Any]]
) -> NDArray[np.float64]:
    """Milliseconds of each of `counts`, by least squares of relative errors of steps and of profiled parts."""
    from scipy.optimize import nnls

    rows = [counts(work) / step["ms"] for step, work in zip(steps, works, strict=True)]
    goals = [1.0] * len(rows)
    for parts in profile:
        match = [
            w
            for s, w in zip(steps, works, strict=True)
            if (s["policy"], s["segments"], s["size"]) == (parts["policy"], 1, 224)
        ]
        for work in match:
            split = counts(work)
            for i, kind in enumerate(KINDS):
                if kind in parts and kind != "packing_byte":
                    both = {i, KINDS.index("packing_byte")} if kind == "other_byte" else {i}
                    spent = parts[kind] + (parts.get("packing_byte", 0) if kind == "other_byte" else 0)
                    rows.append(
                        np.array([split[k] / spent * PROFILED if k in both else 0.0 for k in range(len(KINDS))])
                    )
                    goals.append(PROFILED)
    found: NDArray[np.float64] = nnls(np.array(rows), np.array(goals))[0]
    return found


def host_fit(steps: Sequence[dict[str, Any]], works: Sequence[Work]) -> NDArray[np.float64]:
    """Microseconds of an operator's launch, and of a call of the neuron beside."""
    from scipy.optimize import nnls

    pairs = [(s["host_ms"], w) for s, w in zip(steps, works, strict=True) if "host_ms" in s]
    found: NDArray[np.float64] = nnls(
        np.array([[w.operators / 1e3 / ms, w.neuron_calls / 1e3 / ms] for ms, w in pairs]), np.ones(len(pairs))
    )[0]
    return found


def on_h100() -> tuple[str, list[list[str]]]:
    """What rates.yaml should say, and a row for each step: planned by rates fitted to all, and to all others."""
    row = rates.measured()["h100"]
    steps, profile = row["steps"], row["profile"]
    works = [work_of(step) for step in steps]
    whole, host = device_fit(steps, works, profile), host_fit(steps, works)

    def planned(device: NDArray[np.float64], host: NDArray[np.float64], work: Work) -> float:
        launching = (host[0] * work.operators + host[1] * work.neuron_calls) / 1e3
        return max(float(counts(work) @ device), launching)

    rows = []
    for i, (step, work) in enumerate(zip(steps, works, strict=True)):
        others, their = steps[:i] + steps[i + 1 :], works[:i] + works[i + 1 :]
        alone = planned(device_fit(others, their, profile), host_fit(others, their), work)
        both = planned(whole, host, work)
        name = [str(step[key]) for key in ("policy", "borders", "segments", "size", "images")]
        rows.append(
            [
                *name,
                f"{step['ms']:.0f}",
                f"{both:.0f}",
                f"{both / step['ms'] - 1:+.1%}",
                f"{alone / step['ms'] - 1:+.1%}",
            ]
        )
    peak, band = 989.4, 3350.0
    shares = [1e3 / whole[0] / peak, *(1e3 / ms / band for ms in whole[1:5])]
    said = ", ".join(f"{kind} {share:.3f}" for kind, share in zip(KINDS, shares, strict=False))
    return f"{said}, operator_us {whole[5]:.1f}, host_operator_us {host[0]:.1f}, host_call_us {host[1]:.1f}", rows


def worst(rows: Sequence[Sequence[str]], column: int) -> str:
    """Median and largest of the errors."""
    errors = [abs(float(row[column].rstrip("%"))) for row in rows]
    return f"{statistics.median(errors):.1f} % in the middle, {max(errors):.1f} % at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--clock", choices=("wall", "cores"), default="wall", help="cores: without waiting for one")
    parser.add_argument("--gpu-only", action="store_true")
    asked = parser.parse_args()
    begun = time.perf_counter()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}; seconds by {asked.clock}\n", flush=True)
    said, rows = on_h100()
    print(f"H100, hst_10_768, T = 4, bf16: {said}\n")
    head = ["policy", "borders", "N", "pixels", "images", "ms", "planned", "error", "left out"]
    print(table(head, rows), f"\nLeft out: {worst(rows, 8)}.\n", flush=True)
    if asked.gpu_only:
        return
    rows = list(on_cpu(asked.worlds, asked.clock))
    head = ["ranks", "model", "images", "T", "N", "policy", "norm batch of"]
    print(table([*head, "peak MiB", "planned", "error", "step s", "planned", "error"], rows))
    print(f"Memory: {worst(rows, 9)}. Seconds, left out: {worst(rows, 12)}.")
    print(f"load {os.getloadavg()[0]:.1f} at the end, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
