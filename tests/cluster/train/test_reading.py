"""Numbers on their way to the host: there when they are waited for, as they were when they were asked for."""

from __future__ import annotations

import pytest
import torch

from cluster.train.reading import Reading, runs_ahead


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_cpu_they_are_there(dtype: torch.dtype) -> None:
    assert Reading(torch.tensor([1.5, -2.0], dtype=dtype)).wait() == [1.5, -2.0]
    assert Reading(torch.zeros(0)).wait() == []


def test_only_a_gpu_runs_ahead_of_its_host() -> None:
    assert not runs_ahead(torch.device("cpu")) and runs_ahead(torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_they_are_those_of_then() -> None:
    """What is done to the tensor later does not reach them."""
    values = torch.zeros(3, device="cuda")
    values += 1
    reading = Reading(values)
    values.fill_(7)
    assert reading.wait() == [1.0, 1.0, 1.0]
