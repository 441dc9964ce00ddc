"""Synchronised BatchNorm: two gloo processes with half the batch each are one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from tdformer import TDFormer, segment_loss
from tdformer.norm import synchronise

TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


def train_step(model: TDFormer, x: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    logits = model(x)
    segment_loss(logits.double(), targets).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), grads, dict(model.named_buffers())


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    model, x = torch.load(f"{folder}/in.pt", weights_only=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        half = slice(3 * rank, 3 * rank + 3)
        logits, grads, buffers = train_step(model, x[half], TARGETS[half])
        for grad in grads.values():  # what data parallelism does with the gradients
            dist.all_reduce(grad)
            grad /= 2
        torch.save((logits, grads, buffers), f"{folder}/out{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("recompute", ["none", "block", "unit"])
def test_two_processes_are_one(tiny, tmp_path: Path, recompute: str) -> None:
    model = tiny("tiny_hst", segments=2, feedback="all", recompute=recompute)
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    synchronise(model)
    torch.save((model, x), tmp_path / "in.pt")
    mp.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="spawn")
    synchronise(model, on=False)
    logits, grads, buffers = train_step(model, x, TARGETS)
    results = [torch.load(tmp_path / f"out{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([r[0] for r in results], 1), logits, rtol=0, atol=1e-10)
    for _, other_grads, other_buffers in results:
        assert other_grads.keys() == grads.keys()
        for n in grads:
            torch.testing.assert_close(other_grads[n], grads[n], rtol=1e-8, atol=1e-10)
        for n in buffers:
            torch.testing.assert_close(other_buffers[n], buffers[n], rtol=1e-10, atol=1e-10)
