"""What passes between the ranks, counted where torch hands it to gloo: at each ZeRO stage gradients are summed in fp32,
also where the model computes in bf16 or fp16, in buckets of a size that memory is planned for, while backward goes on;
and a save gathers buckets, which the first rank alone keeps."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import Command, together

import tdformer
from cluster.build.shards import write_shards
from cluster.config import BatchPlan, load

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 1, segments: 1}
data: {dataset: digits, root: shards}
train: {epochs: 1, global_batch: 8, threads: 1, precision: bf16}
checkpoint: {every_steps: 1}
log: {curves: false, every_steps: 1}
"""
COUNTING = """\
import gc, json
import torch, torch.distributed as dist
from cluster.build import planner
from cluster.train import engine, loop as train
from cluster.cli import main

planner.BUCKET, saving = 50_000, False  # or this model would be a single bucket

def tell(*row):
    with open("collectives.jsonl", "a") as file:
        file.write(json.dumps(row) + chr(10))

def count(name):
    call = getattr(dist.ProcessGroup, name)
    def counted(self, *given, **named):
        tensors, todo = [], list(given)
        while todo:
            one = todo.pop()
            tensors += [one] if torch.is_tensor(one) else []
            todo += one if isinstance(one, (list, tuple)) else []
        when = "save" if saving else "backward" if torch._C._current_graph_task_id() >= 0 else ""
        for tensor in tensors:
            tell(name, str(tensor.dtype).removeprefix("torch."), tensor.numel(), when)
        return call(self, *given, **named)
    setattr(dist.ProcessGroup, name, counted)

for name in dir(dist.ProcessGroup):
    if any(word in name for word in ("reduce", "gather", "broadcast", "scatter", "alltoall")):
        count(name)

def save(trainer):
    global saving
    saving = True
    kept = [value.nbytes for part in (engine.weights, engine.moments)
            for value in part(trainer.engine, trainer.rank == 0).values()]
    saving = False
    tell("kept", "", sum(kept), f"rank {trainer.rank}")

def held():
    storages = [t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}

def start(model, config, plan):
    global planned, others
    others = held().keys() - {p.data_ptr() for p in model.parameters()}
    planned = planner.state_bytes(model, config, plan)
    return started(model, config, plan)

def update(running, *given):
    tell("state", "", sum(size for place, size in held().items() if place not in others), str(planned))
    return updated(running, *given)

started, engine.start = engine.start, start
updated, engine.update, train.Trainer.save = engine.update, update, save
main()
"""

Row = tuple[str, str, int, str]
"""A collective, the type and the number of elements of a tensor in it, and when; or what else the program tells."""

PARAMETERS = 310_000
"""Of the model, and a little less."""

STAGE, FP16 = "engine.zero_stage=1", ("train.precision=fp16",)

LARGEST = 82_944
"""Of them, and so the bucket."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Row]]:
    """Of the first steps of two ranks."""
    place = tmp_path_factory.mktemp("collectives")
    write_shards("digits", place / "shards")
    (place / "recipe.yaml").write_text(RECIPE)
    told = place / "collectives.jsonl"

    @cache
    def rows(*words: str) -> list[Row]:
        told.unlink(missing_ok=True)
        name = "-".join(words).replace("=", "")
        command = Command(
            "train", "recipe.yaml", f"name={name}", "--processes", 2, *words, cwd=place, program=COUNTING, merged=True
        )
        deadline = time.monotonic() + 240
        while not told.exists() or told.read_text().count('"kept"') < 4:
            assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
            time.sleep(0.05)
        command.send_signal(signal.SIGKILL)
        command.communicate()
        return [json.loads(line) for line in told.read_text().splitlines()[:-1]]

    return rows


def elements(rows: list[Row], kind: str) -> int:
    return sum(count for _, dtype, count, _ in rows if dtype == kind)


@pytest.mark.parametrize(("stage", "words"), [(0, ()), (1, ()), (2, ()), (3, ()), (0, FP16), (1, FP16), (3, FP16)])
def test_gradients_are_summed_in_fp32(rows: Callable[..., list[Row]], stage: int, words: tuple[str, ...]) -> None:
    found = rows(f"engine.zero_stage={stage}", *words)
    half = elements(found, "bfloat16") + elements(found, "float16")
    assert elements(found, "float32") > PARAMETERS and not half, found


def test_a_loss_scale_takes_no_collective_more(rows: Callable[..., list[Row]]) -> None:
    """Whether a gradient has overflowed is told by its norm, and whether a loss has by one more number in a slot."""
    plain, scaled = (
        Counter((name, dtype) for name, dtype, _, _ in takewhile(lambda row: row[3] != "save", rows(STAGE, *words)))
        for words in ((), FP16)
    )
    assert plain == scaled and plain["allreduce", "float64"] >= 2  # of both ranks


@pytest.mark.parametrize("stage", [1, 3])
def test_in_bf16_where_asked(rows: Callable[..., list[Row]], stage: int) -> None:
    assert elements(rows(f"engine.zero_stage={stage}", "engine.reduce=bf16"), "bfloat16") > PARAMETERS


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_buckets_are_summed_while_backward_goes_on(rows: Callable[..., list[Row]], stage: int) -> None:
    found = [row for row in rows(f"engine.zero_stage={stage}") if "reduce" in row[0] and row[3] == "backward"]
    assert len(found) >= 4 and max(count for _, _, count, _ in found) < 1.01 * LARGEST, found


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_is_allocated_is_planned(rows: Callable[..., list[Row]], stage: int) -> None:
    """Between backward and the step, where all of it is there."""
    found = [(count, int(planned)) for name, _, count, planned in rows(f"engine.zero_stage={stage}") if name == "state"]
    assert all(count < 1.01 * planned for count, planned in found), found
    assert max(count / planned for count, planned in found) > 0.7, found  # ZeRO 3 is in full swing in the second step


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_save_is_kept_by_the_first_rank_alone(rows: Callable[..., list[Row]], stage: int) -> None:
    found = rows(f"engine.zero_stage={stage}")
    kept = {who: count for name, _, count, who in found if name == "kept"}
    assert kept["rank 0"] > 12 * PARAMETERS and kept["rank 1"] == 0
    calls = [row for row in found if row[3] == "save"]
    saves = sum(name == "kept" for name, *_ in found) + 2
    assert len(calls) <= [0, 2, 2, 6][stage] * 8 * saves, calls  # at most 8 buckets hold all parameters


def there_and_back(rank: int, world: int, folder: str) -> None:
    from cluster.build import optimizers, planner
    from cluster.train import engine

    torch.set_num_threads(1)
    planner.BUCKET = 50_000
    device = engine.init_distributed(rank, world, dist.FileStore(f"{folder}/meet", world))
    for stage in range(4):
        torch.manual_seed(0)
        model = tdformer.create_model("quickstart", time_steps=1).to(device)
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        names = [f"{key}.{name}" for key in optimizers.MOMENTS for name, _ in model.named_parameters()]
        moments = {name: torch.randn_like(expected[name.split(".", 1)[1]]) for name in names}
        moments[names[0]].fill_(-0.0)
        config = load(None, [f"engine.zero_stage={stage}", f"train.global_batch={world}"])
        running = engine.start(model, config, BatchPlan(world, world, 1, 1, 1, 1))
        engine.restore_moments(running, moments, 1)
        found = engine.weights(running, rank == 0), engine.moments(running, rank == 0)
        for values, given in zip(found, (expected, moments), strict=True):
            assert values.keys() == (given.keys() if rank == 0 else set())
            for name, value in values.items():
                assert value.numpy().tobytes() == given[name].numpy().tobytes(), (stage, name)
    Path(folder, f"done-{rank}").touch()
    dist.barrier()
    os._exit(0)


def test_what_is_gathered_is_what_was_there(tmp_path: Path) -> None:
    """To the bit, on a number of ranks that divides no parameter."""
    together(there_and_back, 3, 3, str(tmp_path))
    assert len(list(tmp_path.glob("done-*"))) == 3


def apart_from_gradients(rank: int, world: int, folder: str) -> None:
    from cluster.train.agreement import neighbours

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for ranks in (1, 2, world):
        group = neighbours(ranks, 1)
        assert (group is None) == (ranks == 1)
        if group is not None:
            assert group is not dist.group.WORLD and dist.get_process_group_ranks(group)[0] == rank // ranks * ranks
            dist.all_reduce(count := torch.ones(1), group=group)
            assert count == ranks
    Path(folder, f"done-{rank}").touch()
    dist.barrier()
    dist.destroy_process_group()


def test_batchnorm_s_collectives_do_not_queue_behind_those_of_gradients(tmp_path: Path) -> None:
    """Those of one group come one after the other, as NCCL does them; also where all ranks share a norm batch."""
    together(apart_from_gradients, 4, 4, str(tmp_path))
    assert len(list(tmp_path.glob("done-*"))) == 4
