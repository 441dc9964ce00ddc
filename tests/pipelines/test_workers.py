"""Workers last over epochs and data sets, give the bits that this process gives, and end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from global_batches import same

from pipelines import order
from pipelines.loader import Batch, eval_loader, train_loader
from pipelines.samples import Samples
from pipelines.store.tars import TarDataset
from pipelines.views.augment import Augment
from pipelines.workers import Workers

AUGMENT = Augment(crop_padding=1, flip=0.5, erasing=0.3, seed=5)


def epoch(data: Samples, number: int, workers: int | Workers, step: int = 0, micro: int = 48) -> Iterator[Batch]:
    at = order.Cursor(5, number, step, micro, data.digest)
    sizes = {"rank": 0, "world": 1, "micro_batch": micro, "accumulation": 1}
    for (batch,) in train_loader(data, at, augment=AUGMENT, workers=workers, **sizes):
        yield batch


def evaluated(data: Samples, workers: int | Workers) -> list[Batch]:
    return list(eval_loader(data, rank=0, world=1, batch_size=48, workers=workers))


@pytest.fixture
def pool(data: TarDataset, written: Path) -> Iterator[Workers]:
    workers = Workers(2, data, TarDataset(written))
    yield workers
    workers.close()


def test_epochs_and_evaluations_are_read_by_the_same_processes(data: TarDataset, pool: Workers):
    """An evaluation begins while the epoch before it has given its last batch, but has not been asked for more."""
    expected, pids = evaluated(pool.sets[1], 0), []
    for number in range(3):
        batches = []
        for batch in epoch(data, number, pool):
            batches.append(batch)
            if len(batches) == 7:
                assert same(evaluated(pool.sets[1], pool), expected)
        assert same(batches, list(epoch(data, number, 0))) and len(batches) == 7
        pids.append(pool.pids)
    assert pids[0] == pids[1] == pids[2] and len(set(pids[0])) == 2


def test_an_epoch_that_is_left_leaves_nothing_behind(data: TarDataset, pool: Workers):
    assert same([next(epoch(data, 0, pool))], [next(epoch(data, 0, 0))])
    assert not pool.pids
    assert same(list(epoch(data, 1, pool, step=3)), list(epoch(data, 1, 0, step=3)))
    assert len(pool.pids) == 2


def test_one_epoch_at_a_time(data: TarDataset, pool: Workers):
    first = epoch(data, 0, pool)
    next(first)
    with pytest.raises(RuntimeError, match="in the middle of an epoch"):
        next(epoch(data, 1, pool))


def test_larger_batches_than_before_get_larger_memory(data: TarDataset, pool: Workers):
    for micro in (10, 90, 48):
        assert same(list(epoch(data, 0, pool, micro=micro)), list(epoch(data, 0, 0, micro=micro)))


def memory(pid: int | None) -> int:
    """Bytes that are the process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean")))


def test_their_memory_does_not_grow(data: TarDataset, pool: Workers):
    used = []
    for number in range(12):
        for _ in epoch(data, number, pool):
            pass
        used.append([memory(pid) for pid in pool.pids])
    assert np.subtract(used[11], used[2]).max() < 2**20, used


class Broken(Augment):
    def __call__(self, image: np.ndarray, epoch: int, sample_id: int) -> np.ndarray:
        raise KeyError("a defect of ours")


def test_a_defect_keeps_its_traceback(data: TarDataset):
    at = order.Cursor(5, 0, 0, 48, data.digest)
    batches = train_loader(data, at, rank=0, world=1, micro_batch=48, accumulation=1, augment=Broken(), workers=1)
    with pytest.raises(RuntimeError, match=r"(?s)in a data worker.*test_workers.py.*KeyError: 'a defect of ours'"):
        next(batches)


READS = """
import os, sys, time
from pipelines.loader import eval_loader
from pipelines.store.tars import TarDataset
from pipelines.workers import Workers

sets = TarDataset(sys.argv[1]), TarDataset(sys.argv[1])
pools = Workers(2, sets[0]), Workers(2, sets[1])
for data, pool in zip(sets, pools):
    next(eval_loader(data, rank=0, world=1, batch_size=400, workers=pool))
print(*[pid for pool in pools for pid in pool.pids], flush=True)
sys.stdin.read()
"""


def test_they_end_with_a_process_that_is_killed(written: Path):
    """Also those whose pipes a later pool's workers have inherited."""
    reading = subprocess.Popen(
        [sys.executable, "-c", READS, str(written)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with reading:
        assert reading.stdout is not None
        pids = [int(word) for word in reading.stdout.readline().split()]
        assert len(pids) == 4 and all(map(running, pids))
        reading.kill()
    deadline = time.monotonic() + 60
    while any(map(running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid: int) -> bool:
    """A zombie does not: whoever adopted it may never ask for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_batches_belong_to_whoever_takes_them(data: TarDataset, pool: Workers):
    """The memory that workers write into is used again."""
    batches = list(epoch(data, 0, pool))
    kept = [batch.images.clone() for batch in batches]
    list(epoch(data, 1, pool))
    assert all(torch.equal(batch.images, images) for batch, images in zip(batches, kept, strict=True))
