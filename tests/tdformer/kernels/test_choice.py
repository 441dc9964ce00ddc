"""Which kernels a tensor is given to, by its device and its type."""

from __future__ import annotations

import pytest
import torch

from tdformer import kernels
from tdformer.kernels import cpu, reference


def test_the_kernels_are_chosen_by_device_and_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.chosen(torch.zeros(1)) is cpu
    assert kernels.chosen(torch.zeros(1, dtype=torch.bfloat16)) is cpu
    assert kernels.chosen(torch.zeros(1, dtype=torch.float16)) is cpu
    assert kernels.chosen(torch.zeros(1, dtype=torch.float64)) is reference
    assert kernels.chosen(torch.zeros(1, device="meta")) is kernels.meta
    monkeypatch.setenv("TDFORMER_KERNELS", "reference")
    assert kernels.chosen(torch.zeros(1)) is reference
