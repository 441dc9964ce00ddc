"""The norm batch: the images that BatchNorm takes its statistics over are the same ones however a batch is cut."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forked import together
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tdformer import TDFormer, kernels, segment_loss, unit
from tdformer.errors import ModelError
from tdformer.norm import BatchNorm, frozen_statistics, norm_batch, step_statistics

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
    norm_batch(model, 6, dist.group.WORLD)
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
    torch.save((model, x), tmp_path / "in.pt")
    together(worker, 2, str(tmp_path))
    logits, grads, buffers = train_step(model, x, TARGETS)
    results = [torch.load(tmp_path / f"out{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([r[0] for r in results], 1), logits, rtol=0, atol=1e-10)
    for _, other_grads, other_buffers in results:
        assert other_grads.keys() == grads.keys()
        for n in grads:
            torch.testing.assert_close(other_grads[n], grads[n], rtol=1e-8, atol=1e-10)
        for n in buffers:
            torch.testing.assert_close(other_buffers[n], buffers[n], rtol=1e-10, atol=1e-10)


def statistics_of(rank: int, folder: str) -> None:
    """This rank's part of a norm batch, in two orders of the ranks."""
    parts = torch.load(f"{folder}/in.pt")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(parts))
    norm = BatchNorm(parts.shape[2])
    norm.ranks = dist.group.WORLD
    try:
        found = [norm.measure(part[rank], 0)[0] for part in (parts, parts[[2, 0, 3, 1]])]
        torch.save([(one.mean, one.invstd) for one in found], f"{folder}/out{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_statistics_over_ranks_are_fp32s_nearest_in_any_order(tmp_path: Path) -> None:
    """Of channels that lie 3,000 standard deviations from 0, and of one that does not move: squares cancel there."""
    spread = torch.tensor([1.0, 1e-2, 1e-2, 0.0])
    parts = torch.randn(4, 6, 4, 5, 5) * spread.view(-1, 1, 1) + torch.tensor([0.0, 3.0, 30.0, 30.1]).view(-1, 1, 1)
    torch.save(parts, tmp_path / "in.pt")
    together(statistics_of, 4, str(tmp_path))
    (mean, invstd), *others = (one for rank in range(4) for one in torch.load(tmp_path / f"out{rank}.pt"))
    for other in others:
        assert torch.equal(other[0], mean) and torch.equal(other[1], invstd)
    means, variances = (torch.stack(each).double() for each in zip(*map(kernels.statistics, parts), strict=True))
    exact = means.mean(0)
    var = variances.mean(0) + (means - exact).square().mean(0)
    assert torch.equal(mean, exact.float()) and torch.equal(invstd, (var.float() + BatchNorm(1).eps).rsqrt())


@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("policy", ["none", "block", "time", "unit"])
def test_a_batch_of_norm_batches_is_so_many_micro_batches(
    tiny, monkeypatch: pytest.MonkeyPatch, policy: str, slices: int
) -> None:
    """Logits, gradients, and running statistics that move once, by the mean."""
    monkeypatch.setattr(unit, "SLICE", unit.SLICE if slices == 1 else 1)
    model = tiny("tiny_hst", segments=2, feedback="all", recompute=policy)
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    norm_batch(one, 3)
    with step_statistics() as whole:
        logits, grads, _ = train_step(one, x, TARGETS)
    with step_statistics() as parts:
        halves = [train_step(other, x[i : i + 3], TARGETS[i : i + 3]) for i in (0, 3)]
    alone = []
    for i in (0, 3):
        with step_statistics() as half:
            train_step(copy.deepcopy(model), x[i : i + 3], TARGETS[i : i + 3])
        alone.append(half.means())
    assert not torch.allclose(*alone)
    torch.testing.assert_close(whole.means(), (alone[0] + alone[1]) / 2, rtol=1e-12, atol=1e-12)
    assert logits.std(1).min() > 1e-3  # it fires
    torch.testing.assert_close(torch.cat([h[0] for h in halves], 1), logits, rtol=0, atol=1e-12)
    for name, grad in grads.items():  # those of the halves have summed up
        torch.testing.assert_close(halves[1][1][name] / 2, grad, rtol=1e-9, atol=1e-12)
    for trained in (one, other):  # nothing moved in the forward passes
        assert all(torch.equal(a, b) for a, b in zip(trained.buffers(), model.buffers(), strict=True))
    whole.move(whole.means())
    parts.move(parts.means())
    for (name, a), b, before in zip(one.named_buffers(), other.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        assert not torch.equal(a, before), name


def test_one_micro_batch_moves_statistics_as_a_plain_forward_pass(tiny) -> None:
    model = tiny("tiny_hst", segments=2, feedback="all", segment_norm="shared")
    x, other = torch.rand(6, 3, 16, 16, dtype=torch.float64), copy.deepcopy(model)
    train_step(model, x, TARGETS)
    with step_statistics() as statistics:
        train_step(other, x, TARGETS)
    statistics.move(statistics.means())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


def test_what_is_not_made_of_norm_batches_is_refused(tiny) -> None:
    model = tiny("tiny_hst")
    norm_batch(model, 4)
    with pytest.raises(ModelError, match="6 images are not made of norm batches of 4"):
        model(torch.rand(6, 3, 16, 16, dtype=torch.float64))
    assert model.eval()(torch.rand(6, 3, 16, 16, dtype=torch.float64)).shape == (6, 5)


class Operations(TorchDispatchMode):
    """Counts what is computed: everything but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += not func.is_view and "split" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("segment_norm", ["shared", "per_segment"])
def test_statistics_of_a_step_cost_a_handful_of_operations(tiny, segment_norm: str) -> None:
    """Collecting is free; all of them move together."""
    model = tiny("tiny_hst", segments=2, feedback="all", segment_norm=segment_norm)
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    with frozen_statistics(), Operations() as neither:
        model(x)
    with step_statistics() as statistics, Operations() as collecting:
        model(x)
    assert collecting.count == neither.count
    with Operations() as moving:
        statistics.move(statistics.means())
    units = sum(isinstance(module, BatchNorm) for module in model.modules())
    assert moving.count <= 2 + 2 < units  # _foreach_mul and cat; one _foreach_lerp_ a segment
