"""Checkpoints: how long training stands still, how long saving and loading take, and a kill until the next step.

    python -m benchmarks.checkpoint [--models quickstart hst_4_384 hst_10_768] [--rounds 3] [--folder DIR]
        [--worlds 1 2 4] [--stages 0 1 3] [--of hst_4_384]

A checkpoint holds weights and AdamW's two moments in fp32. Training stands still while they are copied to host memory;
a thread writes them. Times are medians; ratios are against that writing, measured in the same rounds. With several
ranks (of the engine itself, on gloo) it stands still until the last one has done its part; `host` is what each keeps.
"""

from __future__ import annotations

import argparse
import gc
import json
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
import torch.distributed as dist
import torch.multiprocessing as mp

import tdformer
from cluster.build.shards import write_shards
from cluster.config import BatchPlan, load
from cluster.run import checkpoint
from cluster.run.folder import RunFolder

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


def stall(number: int, world: int, stages: list[int], name: str, rounds: int, folder: str) -> None:
    """One rank: at each ZeRO stage, how long gathering weights and moments takes until all are done, and the bytes that
    this rank then holds."""
    from cluster.train import engine

    torch.set_num_threads(1)
    device = engine.init_distributed(number, world, dist.FileStore(f"{folder}/meet-{world}", world))
    for stage in stages:
        torch.manual_seed(0)
        running = engine.start(
            tdformer.create_model(name).to(device),
            load(None, [f"engine.zero_stage={stage}", f"train.global_batch={world}", "train.norm_batch=1"]),
            BatchPlan(world, world, 1, 1, 1, 1),
        )
        times, kept = [], 0
        for _ in range(rounds + 1):
            dist.barrier()
            begun = time.perf_counter()
            parts = [engine.weights(running, number == 0), engine.moments(running, number == 0)]
            dist.barrier()
            times.append(time.perf_counter() - begun)
            kept = sum(value.nbytes for part in parts for value in part.values())
            del parts
        del running
        gc.collect()
        found = Path(folder, f"stall-{world}-{stage}-{number}.json")
        found.write_text(json.dumps([statistics.median(times[1:]), kept]))  # the first one makes pages and connections
    dist.barrier()
    os._exit(0)  # nothing is left to do but to free memory


def stalls(worlds: list[int], stages: list[int], name: str, rounds: int, folder: Path) -> list[list[str]]:
    rows = []
    for world in worlds:
        mp.start_processes(stall, (world, stages, name, rounds, str(folder)), nprocs=world, start_method="spawn")
        for stage in stages:
            ranks = [json.loads((folder / f"stall-{world}-{stage}-{i}.json").read_text()) for i in range(world)]
            host = " + ".join(f"{kept / 2**20:.0f}" for _, kept in ranks)
            rows.append([str(world), str(stage), f"{max(seconds for seconds, _ in ranks):.3f}", host])
    return rows


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
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 1, 3])
    parser.add_argument("--of", default="hst_4_384", help="the model of several ranks")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{machine()}; {asked.rounds} rounds\n")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = [times(name, asked.rounds, Path(folder) / "checkpoints") for name in asked.models]
        print(table(["model", "MiB", "stall s", "save s", "load s", "stall / save", "load / save"], rows))
        rows = stalls(asked.worlds, asked.stages, asked.of, asked.rounds, Path(folder))
        print(table([f"ranks, {asked.of}", "ZeRO", "stall s", "host MiB by rank"], rows))
        print(table(["one process, quick start on digits", "s", "ratio"], after_a_kill(asked.rounds, Path(folder))))


if __name__ == "__main__":
    main(sys.argv[1:])
