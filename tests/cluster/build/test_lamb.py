"""LAMB: one step by hand, and the same over a flat share as over its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cluster.build.lamb import Lamb
from cluster.build.optimizer import Piece
from cluster.config import TrainConfig

TRAIN = TrainConfig(lr=0.1, betas=[0.8, 0.9], eps=1e-6)
SHAPES = [(3, 4), (5,), (2, 2)]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "meet"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def given(step: int) -> list[Tensor]:
    """Gradients."""
    rng = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=rng) for shape in SHAPES]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(weight) for weight in given(99)]


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_a_step_is_that_of_the_paper(decay: float) -> None:
    """w moves by -lr |w| / |u| u; without decay by -lr u."""
    weights, before = parameters(), given(99)
    optimizer = Lamb([{"params": weights, "weight_decay": decay}], TRAIN)
    (b1, b2), first, second = TRAIN.betas, [torch.zeros(s) for s in SHAPES], [torch.zeros(s) for s in SHAPES]
    for step in (1, 2, 3):
        for k, (weight, grad) in enumerate(zip(weights, given(step), strict=True)):
            weight.grad = grad.clone()
            first[k], second[k] = b1 * first[k] + (1 - b1) * grad, b2 * second[k] + (1 - b2) * grad**2
            u = first[k] / (1 - b1**step) / ((second[k] / (1 - b2**step)).sqrt() + TRAIN.eps) + decay * before[k]
            trust = before[k].norm() / u.norm() if decay else 1.0
            before[k] = before[k] - TRAIN.lr * trust * u
        optimizer.step()
    for weight, wanted in zip(weights, before, strict=True):
        torch.testing.assert_close(weight.detach(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_over_a_flat_share_it_takes_the_steps_of_its_parameters(alone: None, decay: float) -> None:
    weights = parameters()
    flat = nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
    ends = [12, 17, 21]
    pieces = [Piece(k, start, end - start) for k, (start, end) in enumerate(zip([0, *ends], ends, strict=False))]
    whole, shared = (Lamb([{"params": own, "weight_decay": decay}], TRAIN) for own in (weights, [flat]))
    state = shared.state[flat]
    state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros(21), "exp_avg_sq": torch.zeros(21)}
    shared.over_shares({flat: pieces}, len(weights))
    for step in range(3):
        for weight, grad in zip(weights, given(step), strict=True):
            weight.grad = grad.clone()
        flat.grad = torch.cat([grad.flatten() for grad in given(step)])
        whole.step(), shared.step()
    torch.testing.assert_close(flat.detach(), torch.cat([weight.detach().flatten() for weight in weights]))
    assert (flat.detach() - torch.cat([w.flatten() for w in given(99)])).abs().max() > 0.1
