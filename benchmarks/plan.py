"""Plans against what was measured: memory and seconds of a step on this CPU, and of an H100's published rows.

    python -m benchmarks.plan [--worlds 1 2 4] [--rounds 3] [--clock wall|cores] [--gpu-only] [--cpu-only]
    python -m benchmarks.plan --read benchmarks/results/plan.json [--clock wall|cores] [--gpu-only] [--cpu-only]

On this CPU a case is planned from its operators, which are timed one by one, and from steps of a narrower network; none
of its own is looked at, nothing is fitted. Memory is counted. What was timed is kept by `--write`, where it joins that
of the same cases in other numbers of processes, and planned anew by `--read`. Of the H100 the
rows are those of results/gpu.md, fitted with torch's profile of two of them; each is planned with rates that were
fitted without it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.build.shards import write_shards
from cluster.config import Config, load
from cluster.config.shape import Shape
from cluster.jobs import calibration
from cluster.plan import rates
from cluster.plan.absent import setup_of
from cluster.plan.chips import chip
from cluster.plan.machine import Machine
from cluster.plan.network import AlphaBeta
from cluster.plan.predict import predict
from cluster.plan.rates import Rates
from cluster.plan.timed import Timed
from tdformer.measure import Work

from . import machine, table


class Case(NamedTuple):
    """images: of a process; together: whether all processes' are one norm batch; width: None: the model's own."""

    model: str
    dataset: str
    images: int
    time_steps: int
    segments: int
    policy: str
    together: bool = False
    width: int | None = None

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
        if self.width is not None:
            words["model.width"] = self.width
        return load(None, [f"{key}={value}" for key, value in words.items()])

    def words(self) -> list[str]:
        norm = "all" if self.together else "a rank"
        name = self.model if self.width is None else f"{self.model}, width {self.width}"
        return [name, *map(str, (self.images, self.time_steps, self.segments)), self.policy, norm]


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
    Case("spikformer_2_384", "cifar10", 8, 2, 1, "none"),
    Case("sdt_2_256", "cifar10", 4, 4, 2, "unit"),
    Case("quickstart", "digits", 8, 4, 1, "none"),
    Case("quickstart", "digits", 256, 4, 1, "none"),
    Case("hst_4_384", "cifar10", 1, 1, 1, "none"),
    Case("quickstart", "digits", 24, 6, 2, "none", width=144),
    Case("hst_4_384", "cifar10", 3, 2, 2, "none", width=256),
    Case("sdt_2_256", "cifar10", 6, 2, 1, "block", width=384),
    Case("spikformer_2_384", "cifar10", 2, 6, 3, "unit", width=192),
]
UNSEEN = 4
"""So many of them, the last ones, were timed for the first time when the plan was as it is."""


def timed(worlds: Sequence[int], rounds: int) -> dict[str, Any]:
    """What was measured on this CPU, to be kept in a file: the cases, and for each number of processes what steps took,
    what their operators took, and how the processes exchange. Others on the machine only add to a time, so of the
    rounds, which are apart, the least of each counts."""
    with tempfile.TemporaryDirectory() as folder:
        write_shards("digits", Path(folder, "digits"))
        found: dict[int, list[calibration.Measured]] = {world: [] for world in worlds}
        for number in range(rounds):
            for world in worlds:
                cases = [case.config(world, Path(folder)) for case in CASES]
                found[world].append(calibration.measure(cases, world, steps=True, memory=not number))
                print(f"round {number + 1} of {rounds}, {world} ranks", file=sys.stderr, flush=True)
    return {
        "machine": machine(),
        "cases": [list(case) for case in CASES],
        "worlds": {str(world): least(its) for world, its in found.items()},
    }


def joined(file: Path, measured: dict[str, Any]) -> dict[str, Any]:
    """What was measured by number of processes, with what a file has of the same cases."""
    before = json.loads(file.read_text()) if file.exists() else {}
    same: dict[str, Any] = before["worlds"] if before.get("cases") == measured["cases"] else {}
    return same | measured["worlds"]


def least(rounds: Sequence[calibration.Measured]) -> dict[str, Any]:
    """Of each figure; the peaks are the first round's."""
    taken = []
    for times in zip(*(one.taken for one in rounds), strict=True):
        best = {"seconds": min(t.seconds for t in times), "cores": min(t.cores for t in times)}
        taken.append({"peak": times[0].peak, **best})
    links = [
        {key: min(getattr(one, key) for one in its) for key in ("alpha", "beta")}
        for its in zip(*(one.networks for one in rounds), strict=True)
    ]
    by = {"seconds": [one.by_clock for one in rounds], "cores": [one.by_cores for one in rounds]}
    planned = {clock: [fastest(times) for times in zip(*its, strict=True)] for clock, its in by.items()}
    return {"taken": taken, "networks": links, "planned": planned}


def fastest(times: Sequence[Timed]) -> dict[str, Any]:
    """Of each part the least."""
    parts = {part: min(one.parts[part] for one in times) for part in times[0].parts}
    return {"parts": parts, "tested": min(one.tested for one in times), "end": min(one.end for one in times)}


def on_cpu(measured: dict[str, Any], clock: str) -> Iterator[list[str]]:
    """A row for each number of processes and case of what `timed` found; its errors are of memory and of seconds."""
    cases = [Case(*row) for row in measured["cases"]]
    for name, found in measured["worlds"].items():
        world, of_each = int(name), zip(cases, found["taken"], found["networks"], found["planned"][clock], strict=True)
        for case, took, network, own in of_each:
            setup, seconds = setup_of(case.config(world, Path("absent")), world), took[clock]
            here = Machine.unknown(setup.config, Shape(1, world, 0)).timed(Timed(**own), AlphaBeta(**network), None)
            plan = predict(setup, Shape(1, world, 0), None, here, search=False)
            gib, step = plan.memory["total"].value, plan.step["total"].value
            assert gib is not None and step is not None
            shown = ["", f"{1024 * gib:.2f}", ""]
            if took["peak"]:
                mib = took["peak"] / 2**20
                shown = [f"{mib:.2f}", f"{1024 * gib:.2f}", f"{gib * 1024 / mib - 1:+.1%}"]
            parts = {part: value.value for part, value in plan.step.items() if value.value is not None}
            ours = [f"{1e3 * parts[key]:.1f}" for key in ("matrix", "neuron", "host")]
            yield [name, *case.words(), *shown, f"{seconds:.4f}", f"{step:.4f}", f"{step / seconds - 1:+.1%}", *ours]


# --------------------------------------------------------------------------------------------------------------- H100

H100 = chip("h100")
SHARES = ("matrix_flop", "matrix_byte", "neuron_byte", "other_byte", "packing_byte")
"""What rates.yaml has of the device: of the peak, and of the bandwidth."""
MICROSECONDS = ("operator_us", "host_operator_us", "host_call_us")
"""And of an operator on the device beside its bytes, of its launch, and of a call of the neuron beside."""
START = np.array([0.5] * len(SHARES) + [5.0, 20.0, 200.0])
LEAST = np.array([0.05] * len(SHARES) + [0.5, 5.0, 5.0])
"""An operator that PyTorch calls takes the host some 5 us at least."""
MOST = np.array([1.0] * len(SHARES) + [50.0, 200.0, 2000.0])
PROFILED = 0.5
"""The weight of a part in the profile, beside a whole step's 1."""


def courses() -> list[tuple[Work, ...]]:
    """Of each step of rates.yaml: its work as that was counted with the code that was measured, and not with today's,
    which does less. Every 128 operators."""
    kept = json.loads(Path(__file__).with_name("results").joinpath("plan-h100.json").read_text())
    return [tuple(Work(**dict(zip(kept["fields"], work, strict=True))) for work in step) for step in kept["steps"]]


class Step(NamedTuple):
    """A row of rates.yaml, its work, and milliseconds of its parts where it was profiled, no more in all than it
    took."""

    row: dict[str, Any]
    course: tuple[Work, ...]
    profile: dict[str, float] | None

    @classmethod
    def of(cls, row: dict[str, Any], course: tuple[Work, ...], profiles: Sequence[dict[str, Any]]) -> Step:
        place = (row["policy"], row["segments"], row["size"])
        found = next((one for one in profiles if (one["policy"], 1, 224) == place), None)
        if found is None:
            return cls(row, course, None)
        parts = {kind: ms for kind, ms in found.items() if kind != "policy"}
        fitting = min(1.0, row["ms"] / sum(parts.values()))
        return cls(row, course, {kind: ms * fitting for kind, ms in parts.items()})

    def errors(self, found: Rates) -> list[float]:
        """Of the step, of its launches, which take no longer than it, and of the parts: planned over measured, - 1."""
        done, launched = found.clocks(self.course)
        errors = [1e3 * done / self.row["ms"] - 1]
        if "host_ms" in self.row:
            errors.append(1e3 * launched / min(self.row["host_ms"], self.row["ms"]) - 1)
        if self.profile is None:
            return errors
        work = self.course[-1]
        other = found.other_byte * (work.other_bytes + work.attention_bytes) + found.packing_byte * work.packing_bytes
        parts = {
            "matrix_flop": found.matrix_flop * work.flops,
            "matrix_byte": found.matrix_byte * work.matrix_bytes,
            "neuron_byte": found.neuron_byte * work.neuron_bytes,
            "other_byte": other,
        }
        spent = self.profile | {"other_byte": self.profile["other_byte"] + self.profile.get("packing_byte", 0.0)}
        return errors + [PROFILED * (1e3 * seconds / spent[kind] - 1) for kind, seconds in parts.items()]


def row_of(found: NDArray[np.float64]) -> dict[str, Any]:
    """As a row of rates.yaml."""
    return dict(zip((*SHARES, *MICROSECONDS), found.tolist(), strict=True))


def h100_fit(steps: Sequence[Step]) -> NDArray[np.float64]:
    """Shares and microseconds, by least squares of relative errors."""
    from scipy.optimize import least_squares

    def errors(logs: NDArray[np.float64]) -> list[float]:
        found = rates.of_row(H100, "bf16", False, row_of(np.exp(logs)), "fitted")
        return [error for step in steps for error in step.errors(found)]

    bounds = np.log(LEAST), np.log(MOST)
    found: NDArray[np.float64] = np.exp(least_squares(errors, np.log(START), bounds=bounds, diff_step=1e-4).x)
    return found


def on_h100() -> tuple[str, list[list[str]]]:
    """What rates.yaml should say, and a row for each step: planned by rates fitted to all, and to all others."""
    known = rates.measured()["h100"]
    steps = [Step.of(row, course, known["profile"]) for row, course in zip(known["steps"], courses(), strict=True)]
    whole = h100_fit(steps)

    def planned(found: NDArray[np.float64], step: Step) -> float:
        return 1e3 * rates.of_row(H100, "bf16", False, row_of(found), "fitted").clocks(step.course)[0]

    rows = []
    for i, step in enumerate(steps):
        ms, both = step.row["ms"], planned(whole, step)
        alone = planned(h100_fit(steps[:i] + steps[i + 1 :]), step)
        name = [str(step.row[key]) for key in ("policy", "borders", "segments", "size", "images")]
        rows.append([*name, f"{ms:.0f}", f"{both:.0f}", f"{both / ms - 1:+.1%}", f"{alone / ms - 1:+.1%}"])
    shown = {key: f"{value:.{1 if key in MICROSECONDS else 3}f}" for key, value in row_of(whole).items()}
    return ", ".join(f"{key} {value}" for key, value in shown.items()), rows


def worst(rows: Sequence[Sequence[str]], column: int) -> str:
    """Median and largest of the errors."""
    errors = [abs(float(row[column].rstrip("%"))) for row in rows if row[column]]
    if not errors:
        return "not measured"
    return f"{statistics.median(errors):.1f} % in the middle, {max(errors):.1f} % at most"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--clock", choices=("wall", "cores"), default="wall", help="cores: without waiting for one")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is timed; the least counts")
    parser.add_argument("--write", type=Path, help="a file for what was timed")
    parser.add_argument("--read", type=Path, help="such a file: nothing is timed, all is planned anew")
    parser.add_argument("--gpu-only", action="store_true")
    parser.add_argument("--cpu-only", action="store_true")
    asked = parser.parse_args()
    begun = time.perf_counter()
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}; seconds by {asked.clock}\n", flush=True)
    if not asked.cpu_only:
        said, rows = on_h100()
        print(f"H100, hst_10_768, T = 4, bf16: {said}\n")
        head = ["policy", "borders", "N", "pixels", "images", "ms", "planned", "error", "left out"]
        print(table(head, rows), f"\nLeft out: {worst(rows, 8)}.\n", flush=True)
    if asked.gpu_only:
        return
    measured = json.loads(asked.read.read_text()) if asked.read else timed(asked.worlds, asked.rounds)
    if asked.write:
        measured["worlds"] = joined(asked.write, measured)
        asked.write.write_text(json.dumps(measured, indent=1) + "\n")
    clock = {"wall": "seconds", "cores": "cores"}[asked.clock]
    rows = list(on_cpu(measured, clock))
    head = ["ranks", "model", "images", "T", "N", "policy", "norm batch of"]
    parts = ["convolutions ms", "neuron ms", "host ms"]
    print(f"timed: {measured['machine']}\n")
    print(table([*head, "peak MiB", "planned", "error", "step s", "planned", "error", *parts], rows))
    for world in measured["worlds"]:
        own = [row for row in rows if row[0] == world]
        print(f"{world} ranks: memory {worst(own, 9)}; seconds {worst(own, 12)}; unseen {worst(own[-UNSEEN:], 12)}.")
    print(f"All: memory {worst(rows, 9)}; seconds {worst(rows, 12)}.")
    print(f"load {os.getloadavg()[0]:.1f} at the end, {time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
