"""The bytes that short reference runs write: what a change that changes no number is held to.

    python -m benchmarks.bits                  # beside the record, results/bits.json
    python -m benchmarks.bits --against TREE   # beside those of another tree: a worktree of the commit before
    python -m benchmarks.bits --write          # as the record

One process, and two with ZeRO 2; each as it is, and killed by SIGKILL once it has a checkpoint and gone on with. What
is compared are SHA-256 digests of metrics.jsonl and of the newest checkpoint's weights, moments and averages. Last bits
depend on processor and libraries: the record has those that it was made with, and is compared where they are the same;
two trees are compared on one machine. The suite compares runs of its own with the record
(tests/cluster/train/test_resume.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.run.folder import RunFolder

from . import table

ROOT = Path(__file__).parents[1]
RECORD = Path(__file__).parent / "results" / "bits.json"
RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data:
  {dataset: digits, root: SHARDS, augment: {crop_padding: 1, flip: 0.5, erasing: 0.3}, mixup: 0.2, cutmix: 0.5}
train:
  {epochs: 2, global_batch: 160, micro_batch: 40, lr: 0.003, clip_grad: 1.0, ema_decay: 0.9, threads: 1,
   layer_decay: 0.9, eval_every_epochs: 1}
checkpoint: {every_steps: 3, keep: 2}
log: {every_steps: 2}
"""
RUNS = {"one process": (1, 0), "two processes": (2, 2)}
"""Processes and ZeRO stage."""
OF_BITS = (
    *("device", "cpu", "kernels", "torch", "numpy", "numba", "deepspeed", "variables"),
    *("processes", "threads", "micro_batch", "norm_ranks", "zero_stage", "policy", "borders", "deterministic"),
)
"""Keys of a row of starts.jsonl that decide the bits of these runs."""


def digests(run: Path) -> dict[str, str]:
    """Of a run folder, by the file."""
    folder = RunFolder(run)
    newest = folder.checkpoints / f"step-{folder.saved_step():08d}"
    files = [folder.metrics.path, *sorted(newest.glob("*.safetensors"))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files}


def surroundings(run: Path) -> dict[str, Any]:
    """What decides the last bits: what the run's last start has noted, and which processor it was, in full."""
    start: dict[str, Any] = {**RunFolder(run).starts.read()[-1]}
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()]
    said = {key.strip(): value.strip() for key, _, value in lines}
    kinds = ("vendor_id", "cpu family", "model", "stepping", "cache size", "flags")
    processor = hashlib.sha256("".join(said.get(kind, "") for kind in kinds).encode()).hexdigest()[:16]
    return {key: start.get(key) for key in OF_BITS} | {"processor": processor}


def record() -> dict[str, Any]:
    """By the name of the run: `digests` and `surroundings`."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def differences(name: str, run: Path) -> list[str] | None:
    """The files of a run that are not as they were recorded; None: the record was made elsewhere, or otherwise."""
    recorded, here = record()[name], digests(run)
    if recorded["surroundings"] != surroundings(run):
        return None
    return [file for file in recorded["digests"] | here if recorded["digests"].get(file) != here.get(file)]


def train(tree: Path, folder: Path, name: str, killed: bool) -> Path:
    """A run of the code in a tree, in a folder of its own below `folder`; returns its run folder."""
    processes, stage = RUNS[name]
    place = folder / f"{name}{' killed' * killed}".replace(" ", "-")
    command = [sys.executable, "-m", "cluster.cli", "train", folder / "recipe.yaml", f"runs_dir={place}"]
    command += ["--processes", str(processes), f"engine.zero_stage={stage}"]
    env, run = os.environ | {"PYTHONPATH": str(tree)}, RunFolder(place / "run")
    if killed:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL)
        while run.saved_step() is None and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if run.summary() is not None:
            raise SystemExit(f"{run.path} had ended before it was killed")
    subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=True)
    return run.path


def results(tree: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Of all runs of a tree, by name. Ends where one that was killed has other bytes than the one that was not."""
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": str(tree)}
    shard = [sys.executable, "-m", "cluster.cli", "shard", "digits", folder / "shards", "--samples-per-shard", "500"]
    subprocess.run(shard, cwd=folder, env=env, stderr=subprocess.DEVNULL, check=True)
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(folder / "shards")))
    found = {}
    for name in RUNS:
        whole, killed = (train(tree, folder, name, killed) for killed in (False, True))
        if digests(whole) != digests(killed):
            raise SystemExit(f"{tree}, {name}: killed and gone on with it has other bytes: {digests(killed)}")
        found[name] = {"digests": digests(whole), "surroundings": surroundings(whole)}
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="TREE")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        here = results(ROOT, Path(name) / "here")
        if asked.write:
            RECORD.write_text(json.dumps(here, indent=1) + "\n")
        other = record() if asked.against is None else results(asked.against.resolve(), Path(name) / "there")
    rows, wrong = [], False
    for run, found in here.items():
        alike = asked.against is not None or found["surroundings"] == other[run]["surroundings"]
        for file, digest in found["digests"].items():
            same = other[run]["digests"].get(file) == digest
            wrong |= alike and not same
            rows.append([run, file, digest, "equal" if same else "OTHER" if alike else "recorded elsewhere"])
    print(table(["run", "file", "SHA-256", str(asked.against or RECORD.name)], rows))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
