"""What a process says when memory runs out: one line, with what to lower."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import TDFORMER, Command

from cluster.build.shards import write_shards

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 1400, micro_batch: 700, threads: 1}
recompute: {policy: none}
"""
LIMITED = f"""
import resource
from cluster.train.loop import Trainer
run = Trainer.run
def limited(self, monitor):
    now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, resource.RLIM_INFINITY))
    return run(self, monitor)
Trainer.run = limited
{TDFORMER}
"""
"""Training that may have 64 MiB more than it has when it begins."""
# A machine without a GPU: the class that CUDA's allocator raises, with its words, in place of a step.
FULL_GPU = f"""
import torch
from cluster.train.loop import Trainer
def step(self, *_):
    if self.rank == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of "
                                     "79.11 GiB of which 1.05 GiB is free.\\nIncluding non-PyTorch memory, ...")
    return run(self, *_)
run, Trainer.step = Trainer.step, step
{TDFORMER}
"""
KILLED = f"""
import os, signal
from cluster.train.loop import Trainer
run = Trainer.step
Trainer.step = lambda self, *given: run(self, *given) if self.rank == 0 else os.kill(os.getpid(), signal.SIGKILL)
{TDFORMER}
"""
"""As the kernel does when a machine's memory is full."""


@pytest.mark.parametrize(
    ("program", "words", "said", "ways", "state", "code"),
    [
        (
            LIMITED,
            [],
            "error: memory has run out (",
            ["lower train.micro_batch (700 now", "set recompute.policy=unit (none now)"],
            "failed",
            2,
        ),
        (
            FULL_GPU,
            ["--processes", "2", "recompute.policy=unit", "train.micro_batch=0"],
            "error: the GPU's memory has run out (tried to allocate 2.50 GiB)",
            ["lower train.micro_batch (700 now", "raise recompute.borders (1 now)", "raise engine.zero_stage (0 now)"],
            "running",  # as the first rank last said
            2,
        ),
        (
            KILLED,
            ["--processes", "2", "recompute.policy=auto", "recompute.memory=8"],
            "process 1 was ended by SIGKILL: memory has run out, if nobody sent it; ",
            ["lower train.micro_batch (700 now", "set recompute.memory, by which auto chooses, lower (8.00 GiB now)"],
            "running",
            1,
        ),
    ],
    ids=["cpu", "gpu", "killed"],
)
def test_a_step_that_does_not_fit_ends_in_one_line(
    tmp_path: Path, program: str, words: list[str], said: str, ways: list[str], state: str, code: int
) -> None:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = Command("train", "recipe.yaml", *words, cwd=tmp_path, program=program).completed()
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(said) and all(way in line for way in ways)
    assert json.loads((tmp_path / "runs" / "run" / "status.json").read_text())["state"] == state
