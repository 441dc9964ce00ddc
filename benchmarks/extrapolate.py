"""Hours of hst_10_768 on ImageNet on nodes of 8 H100, extrapolated from one H100 that was measured.

    python -m benchmarks.extrapolate [--write]

Cells: steps of benchmarks/results/gpu.md, as cluster/plan/rates.yaml has them, without optimizer and data. One time
step was not measured: its cells are modelled from counted work and the rates that were fitted to those steps. Then
`kind: extrapolate` of a study's `report.fits` (docs/fits.md). Nothing was measured on two GPUs or more.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

import tdformer
from cluster.plan import rates
from cluster.plan.chips import chip
from cluster.study.fits import fit
from cluster.study.fitted import Fit
from cluster.study.table import Row
from tdformer.kernels import stands_for
from tdformer.measure import measure_step

from . import table

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "extrapolate.md", ROOT / "docs" / "extrapolation.md"
EPOCH = 1_281_167
"""Images."""
RECIPE = 576
"""Images of a step, by configs/imagenet/hst_10_768.yaml."""
STALL = 0.259
"""Seconds of a checkpoint (benchmarks/results/checkpoint.md)."""
EVALUATED, EVALUATION = 50_000, 1.28e-3
"""Images of an evaluation, and seconds of each (benchmarks/results/gpu.md)."""
READING = 3.80e-3
"""Seconds of a CPU core for an image with RandAugment and erasing (benchmarks/results/loader.md)."""


@dataclass(frozen=True)
class Network:
    """One that is trained: options of create_model, and how long for."""

    name: str
    time_steps: int
    segments: int
    feedback: str

    @property
    def options(self) -> dict[str, Any]:
        own = {"time_steps": self.time_steps, "segments": self.segments, "feedback": self.feedback}
        return {"name": "hst_10_768", **own}


@cache
def steps(network: Network) -> tuple[list[Row], float]:
    """Steps of one GPU without recomputation, and the seconds that the host launches one."""
    measured = [
        step
        for step in rates.measured()["h100"]["steps"]
        if (step["policy"], step["segments"], step["size"]) == ("none", network.segments, 224)
        and network.time_steps == 4
    ]
    if measured:
        (step,) = measured
        return [_cell(step["images"], step["ms"] / 1e3)], step["host_ms"] / 1e3
    known, rows, launch = rates.of_chip(chip("h100"), "bf16", False), [], 0.0
    for images in (144, 288):  # of fewer the launch takes longer than computing
        with torch.device("meta"), stands_for("cpu"):  # what a GPU did when it was measured: see benchmarks/plan.py
            model = tdformer.create_model(**network.options, recompute="none")
            cost, _ = measure_step(model, torch.empty(images, 3, 224, 224), True)
        rows.append(_cell(images, sum(known.parts(cost.work).values())) | {"simulated": True})
        launch = known.launching(cost.work)
    return rows, launch


def _cell(images: int, seconds: float) -> Row:
    return {"cell": f"{images} images", "world": 1, "images": images, "steps": 1, "seconds_step": seconds}


T4 = Network("T = 4", 4, 1, "none")
T1 = Network("T = 1", 1, 1, "none")
FED = Network("T = 4, N = 2, feedback to all", 4, 2, "all")


@cache
def extrapolated(network: Network, epochs: int, gpus: int, global_batch: int) -> Fit:
    rows, launch = steps(network)
    images = RECIPE // 8
    spec: dict[str, Any] = {
        "name": f"{network.name}, {global_batch}",
        "kind": "extrapolate",
        "chip": "h100",
        "gpus": [gpus],
        "model": network.options,
        "launch": launch,
        "images": epochs * EPOCH,
        "global_batch": global_batch,
        "norm_batch": images,
        "stall": STALL,
        "error": 0.15 if network is T1 else 0.02,
    }
    return fit(rows, spec)


def ranged(row: Any, name: str, form: str) -> str:
    """A figure of a curve, with its interval."""
    return f"{row[name]:{form}} ({row[f'{name}_low']:{form}} to {row[f'{name}_high']:{form}})"


def curve() -> str:
    """Images/s of T = 4 with 72 images a GPU."""
    gpus = [8, 16, 32, 64, 128, 256, 512]
    found = [extrapolated(T4, 200, p, 72 * p) for p in gpus]
    rows = []
    for p, one in zip(gpus, found, strict=True):
        (row,) = one.curve
        cells = [ranged(row, "images_second", ",.0f"), ranged(row, "efficiency", ".1%"), ranged(row, "goodput", ".2%")]
        rows.append([str(p), f"{72 * p:,}", *cells, ranged(row, "hours", ".1f"), ranged(row, "gpu_hours", ",.0f")])
    head = ["GPUs", "images a step", "images/s", "efficiency", "goodput", "hours of 200 epochs", "GPU-hours"]
    return table(head, rows)


PATHS = {
    "200 epochs of T = 4": [(T4, 200)],
    "200 epochs of T = 1, then 50 of T = 4 with feedback": [(T1, 200), (FED, 50)],
}
WAYS = {"8 GPUs, 576 images a step": (8, 576), "64 GPUs, 576": (64, 576), "64 GPUs, 4,608": (64, 4608)}


def paths() -> str:
    """Hours; of several parts the ends of intervals are added, since they share what is assumed."""
    rows = []
    for path, parts in PATHS.items():
        for way, (gpus, images) in WAYS.items():
            lines = [extrapolated(network, epochs, gpus, images).curve[0] for network, epochs in parts]
            keys = [f"{name}{end}" for name in ("hours", "gpu_hours") for end in ("", "_low", "_high")]
            total = {key: sum(line[key] for line in lines) for key in keys}
            rates = " / ".join(f"{line['images_second']:,.0f}" for line in lines)
            rows.append([path, way, rates, ranged(total, "hours", ".1f"), ranged(total, "gpu_hours", ",.0f")])
    return table(["path", "on", "images/s", "hours", "GPU-hours"], rows)


def assumptions() -> str:
    """Of T = 4 on 8 GPUs."""
    found = extrapolated(T4, 200, 8, RECIPE).assumptions
    rows = [[one.name, f"{one.value:g}", f"{one.low:g} to {one.high:g}", one.source] for one in found]
    return table(["what", "value", "drawn from", "source"], rows)


def cells() -> str:
    """What all of it starts from."""
    rows = []
    for network in (T4, FED, T1):
        its, launch = steps(network)
        source = "modelled" if its[0].get("simulated") else "measured"
        for cell in its:
            seconds = cell["seconds_step"]
            each = f"{1e3 * seconds / cell['images']:.2f}"
            rows.append(
                [network.name, source, str(cell["images"]), f"{1e3 * seconds:.0f}", each, f"{1e3 * launch:.0f}"]
            )
    return table(["network", "source", "images", "ms a step", "ms an image", "ms to launch it"], rows)


def told() -> str:
    """All of it."""
    node, fast = (extrapolated(network, 200, 8, RECIPE).curve[0]["images_second"] for network in (T4, T1))
    each = EVALUATED * EVALUATION / 8
    return f"""\
hst_10_768, 224 x 224, bf16, without recomputation, on one H100:

{cells()}

Paths, extrapolated (in brackets 90 % intervals):

{paths()}

T = 4, N = 1, 72 images a GPU, extrapolated:

{curve()}

Assumed, for T = 4 on 8 GPUs:

{assumptions()}

Not in it: the optimizer; evaluation, {each:.0f} s an epoch on 8 GPUs, {200 * each / 3600:.1f} h of 200; the queue;
reading, for which T = 4 keeps {node * READING:.1f} CPU cores of a node busy and T = 1 {fast * READING:.1f}.
"""


def tables(text: str) -> list[str]:
    """The tables of a page."""
    return re.findall(r"(?:^\|.*\n)+", text, re.M)


def write(said: str) -> None:
    """Into the result, and the tables into the page, which has the same ones."""
    head = RESULT.read_text().partition(said.partition(",")[0])[0]
    RESULT.write_text(head + said)
    page = PAGE.read_text()
    for old, new in zip(tables(page), tables(said), strict=True):
        page = page.replace(old, new)
    PAGE.write_text(page)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="to benchmarks/results and docs/extrapolation.md")
    asked = parser.parse_args(arguments)
    print(said := told(), end="")
    if asked.write:
        write(said)


if __name__ == "__main__":
    main(sys.argv[1:])
