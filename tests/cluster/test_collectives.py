"""What passes between the ranks, counted where torch hands it to gloo: gradients are summed in fp32 at each ZeRO stage,
also where the model computes in bf16."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from forked import Command

from cluster.prepare import write_shards
from cluster.run import RunFolder

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1, segments: 1}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 8, threads: 1, precision: bf16}
checkpoint: {every_steps: 1000}
log: {every_steps: 1}
"""
COUNTING = """\
import json, os
import torch, torch.distributed as dist
from cluster.cli import main

def count(name):
    call = getattr(dist.ProcessGroup, name)
    def counted(self, *given, **named):
        tensors, todo = [], list(given)
        while todo:
            one = todo.pop()
            tensors += [one] if torch.is_tensor(one) else []
            todo += one if isinstance(one, (list, tuple)) else []
        with open("collectives.jsonl", "a") as file:
            for tensor in tensors:
                file.write(json.dumps([name, str(tensor.dtype), tensor.numel()]) + chr(10))
        return call(self, *given, **named)
    setattr(dist.ProcessGroup, name, counted)

for name in dir(dist.ProcessGroup):
    if any(word in name for word in ("reduce", "gather", "broadcast", "scatter", "alltoall")):
        count(name)
main()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collectives")
    write_shards("digits", folder / "shards")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def counted(place: Path, *words: str) -> Counter[str]:
    """Elements by type in the first steps of two ranks."""
    (place / "collectives.jsonl").unlink(missing_ok=True)
    name = "-".join(words).replace("=", "")
    command = Command(
        "train", "recipe.yaml", f"name={name}", "--processes", 2, *words, cwd=place, program=COUNTING, merged=True
    )
    deadline = time.monotonic() + 120
    while not RunFolder(place / "runs" / name).metrics.read():
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)
    command.send_signal(signal.SIGKILL)
    command.communicate()
    found: Counter[str] = Counter()
    for line in (place / "collectives.jsonl").read_text().splitlines()[:-1]:
        _, kind, elements = json.loads(line)
        found[kind.removeprefix("torch.")] += elements
    return found


PARAMETERS = 320_000
"""Of the model, and a little less."""


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_are_summed_in_fp32(place: Path, stage: int) -> None:
    found = counted(place, f"engine.zero_stage={stage}")
    assert found["float32"] > PARAMETERS and not found["bfloat16"], found


@pytest.mark.parametrize("stage", [1, 3])
def test_in_bf16_where_asked(place: Path, stage: int) -> None:
    assert counted(place, f"engine.zero_stage={stage}", "engine.reduce=bf16")["bfloat16"] > PARAMETERS
