"""Checkpoints: how long training stands still, how long saving and loading take, and a kill until the next step.

    python -m benchmarks.checkpoint [--models quickstart hst_4_384 hst_10_768] [--rounds 3] [--folder DIR]

A checkpoint holds weights and AdamW's two moments in fp32. Training stands still while they are copied to host memory;
a thread writes them. Times are medians; ratios are against that writing, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import tdformer
from cluster import checkpoint
from cluster.prepare import write_shards
from cluster.run import RunFolder

from . import machine, table

ROOT = Path(__file__).parents[1]
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 30, global_batch: 160, threads: 1}
checkpoint: {every_steps: 5}
log: {every_steps: 1}
"""


def times(name: str, rounds: int, root: Path) -> list[str]:
    """A row: size, and the seconds of copy, save and load."""
    model = tdformer.create_model(name)
    live = {k: {n: t.detach() for n, t in model.state_dict().items()} for k in ("model", "exp_avg", "exp_avg_sq")}
    found: dict[str, list[float]] = {"stall": [], "save": [], "load": []}
    for step in range(rounds + 1):
        saver = checkpoint.Saver(root, keep=1)
        begun = time.perf_counter()
        parts = {part: {n: t.to("cpu", copy=True) for n, t in tensors.items()} for part, tensors in live.items()}
        saver.begin(step, parts, {"state": {}}, False, lambda: None)
        stalled = time.perf_counter()
        saver.wait()
        saved = time.perf_counter()
        checkpoint.load(checkpoint.complete(root)[0])
        loaded = time.perf_counter()
        if step:  # the first one makes files and caches
            for key, seconds in zip(found, (stalled - begun, saved - begun, loaded - saved), strict=True):
                found[key].append(seconds)
    size = sum(p.stat().st_size for p in checkpoint.complete(root)[0].iterdir()) / 2**20
    shutil.rmtree(root)
    stall, save, load = (statistics.median(v) for v in found.values())
    parts_of = [f"{stall:.3f}", f"{save:.2f}", f"{load:.2f}", f"{stall / save:.3f}", f"{load / save:.2f}"]
    return [name, f"{size:.0f}", *parts_of]


def after_a_kill(rounds: int, folder: Path) -> list[list[str]]:
    """Seconds from SIGKILL to the next new step, and from starting a fresh run to its first one."""
    write_shards("digits", folder / "shards", samples_per_shard=500)
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    command = [sys.executable, "-m", "cluster.cli", "train", "recipe.yaml"]
    run = RunFolder(folder / "runs" / "run")
    first, again = [], []
    for _ in range(rounds):
        shutil.rmtree(run.path, ignore_errors=True)
        process = _started(command, folder)
        first.append(_until(run, 1))
        _until(run, 13)
        process.send_signal(signal.SIGKILL)
        process.wait()
        reached = len(run.metrics.read())
        process = _started(command, folder)
        again.append(_until(run, reached + 1))
        process.kill()
        process.wait()
    kill, fresh = statistics.median(again), statistics.median(first)
    return [
        ["a fresh start to its first step", f"{fresh:.1f}", "1.00"],
        ["a kill to the next new step", f"{kill:.1f}", f"{kill / fresh:.2f}"],
    ]


def _started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _until(run: RunFolder, rows: int) -> float:
    begun = time.perf_counter()
    while len(run.metrics.read()) < rows:
        time.sleep(0.005)
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["quickstart", "hst_4_384", "hst_10_768"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{machine()}; {asked.rounds} rounds\n")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = [times(name, asked.rounds, Path(folder) / "checkpoints") for name in asked.models]
        print(table(["model", "MiB", "stall s", "save s", "load s", "stall / save", "load / save"], rows))
        print(table(["one process, quick start on digits", "s", "ratio"], after_a_kill(asked.rounds, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
