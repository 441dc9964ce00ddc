"""Numbers that the host wants from the device, and does not wait for when it asks."""

from __future__ import annotations

import torch
from torch import Tensor


def runs_ahead(device: torch.device) -> bool:
    """Whether the host goes on while the device still works on what it was asked for."""
    return device.type == "cuda"


class Reading:
    """Numbers `[n]` on their way to the host: they are there once the device has done what it was asked for before."""

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._there: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._there = torch.cuda.Event(blocking=True)  # who waits leaves its core to the loader
            self._there.record()

    def wait(self) -> list[float]:
        """The numbers."""
        if self._there is not None:
            self._there.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
