"""The one all-reduce of a step, over two real processes."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist

from cluster.train.slots import Slots


def rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meet", 2), rank=number, world_size=2)
    calls = []
    reduce = dist.all_reduce
    dist.all_reduce = lambda *given: (calls.append(1), reduce(*given))
    slots = Slots({"window": 3, "silent": 2, "flag": 1}, torch.device("cpu"))
    shares = {"window": torch.tensor([0.1, 1.0, 2.0**53]) * (number + 1), "flag": number == 1}
    sums, means = slots.summed(shares, torch.tensor([1.0, 2.0]) + number)
    told = [slots.named(sums.tolist()), means.tolist(), str(means.dtype), len(calls)]
    Path(folder, str(number)).write_text(json.dumps(told))
    dist.destroy_process_group()


def test_slots_are_added_and_means_averaged_in_one_call(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=rank, args=(number, str(tmp_path))) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    one, other = (json.loads((tmp_path / str(number)).read_text()) for number in range(2))
    tenth = torch.tensor(0.1).item()
    window = [tenth + torch.tensor(0.2).item(), 3.0, 2.0**53 * 3]
    assert one == other == [{"window": window, "silent": [0.0, 0.0], "flag": [1.0]}, [1.5, 2.5], "torch.float32", 1]
