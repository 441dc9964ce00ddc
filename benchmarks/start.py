"""A start of a run: the time that each of its processes computes, and what it reads, until training begins.

    python -m benchmarks.start [--samples 1281167] [--model hst_4_384] [--processes 1 2] [--rounds 3]

`tdformer train` goes on from a checkpoint on an index of that many samples, beside shard files of the right sizes that
hold nothing, and is killed when it says that it runs. Seconds are of the processor, in user and system mode. MiB are
what read(2) and its like gave, from the page cache too, Python's own files among it, but not what is mapped. Medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from cluster.build.data import training_data
from cluster.build.model import build_model
from cluster.config import Config, flat, load
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.states import RunState
from cluster.train.state import TrainState
from pipelines.order import Cursor

from . import machine, order, table

ROOT = Path(__file__).parents[1]
TICKS = os.sysconf("SC_CLK_TCK")


def write_run(config: Config) -> int:
    """A run that was killed after a step, as far as a start can tell; the bytes of its checkpoint."""
    train, _ = training_data(config)
    model = build_model(config, train)
    moments = {f"{k}.{n}": torch.zeros_like(p) for k in ("exp_avg", "exp_avg_sq") for n, p in model.named_parameters()}
    state = TrainState(1, Cursor(config.seed, 0, 1, config.train.global_batch, train.digest)).to_dict()
    saved = {"format": checkpoint.FORMAT, "state": state, "model": model.config, "config": flat(config)}
    folder = RunFolder(config.run_path)
    folder.open(config)
    parts = {"model": model.state_dict(), "optimizer": moments}
    path = checkpoint.save(folder.checkpoints, 1, parts, saved | {"classes": train.class_names}, 1)
    return sum(file.stat().st_size for file in path.iterdir())


def start(words: list[str], folder: RunFolder) -> list[tuple[float, float]]:
    """Seconds and MiB of the command and of the processes that it has started, in the order of their start."""
    command = [sys.executable, "-m", "cluster.cli", "train", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore:resource_tracker"}  # of a killed one
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    begun = time.time()
    try:
        while folder.status().get("state") != RunState.RUNNING or folder.status()["time"] < begun:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
            time.sleep(0.002)
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = sorted(int(pid) for task in tasks for pid in task.read_text().split())
        ranks = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return [_spent(pid) for pid in (process.pid, *ranks)]
    finally:
        process.kill()
        process.wait()


def _spent(pid: int) -> tuple[float, float]:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    read = Path(f"/proc/{pid}/io").read_text().split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS, int(read[1]) / 2**20


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--model", default="hst_4_384")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        for split, samples in (("train", asked.samples), ("test", max(asked.samples // 26, 1))):
            (Path(name) / split).mkdir()
            order.write_index(Path(name) / split, samples)
        words = [f"runs_dir={name}/runs", f"data.root={name}", "data.dataset=imagenet", "data.size=224"]
        words += [f"model.name={asked.model}", "train.global_batch=64", "train.micro_batch=4", "train.threads=1"]
        (Path(name) / "recipe.yaml").write_text("name: run\n")
        config = load(None, words)
        size = write_run(config)
        rows = []
        for count in asked.processes:
            given = [f"{name}/recipe.yaml", *words, "--processes", str(count)]
            found = [start(given, RunFolder(config.run_path)) for _ in range(asked.rounds)]
            names = ["the only one"] if count == 1 else ["the command", *(f"rank {rank}" for rank in range(count))]
            for who, spent in zip(names, zip(*found, strict=True), strict=True):
                seconds, read = (statistics.median(values) for values in zip(*spent, strict=True))
                rows.append([f"{count}", who, f"{seconds:.2f}", f"{read:.0f}"])
        index = sum((Path(name) / split / "index.npz").stat().st_size for split in ("train", "test"))
    print(f"{machine()}; {asked.samples:,} samples, {asked.model}, {asked.rounds} rounds\n")
    print(f"Index: {index / 2**20:.0f} MiB; checkpoint: {size / 2**20:.0f} MiB.\n")
    print(table(["processes", "which", "CPU s", "MiB read"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
