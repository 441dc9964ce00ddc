"""The one all-reduce of a step: numbers of the loop and its hooks by name, and what BatchNorm measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from torch import Tensor

Addend = Tensor | float | Sequence[float]
"""What a rank adds to a slot: as many numbers as the slot holds."""


class Slots:
    """Named places for numbers that are added up over the ranks."""

    def __init__(self, widths: Mapping[str, int], device: torch.device) -> None:
        """widths: how many numbers each slot holds; the same on all ranks, in the same order."""
        borders = accumulate(widths.values(), initial=0)
        self.places = {name: slice(*ends) for name, ends in zip(widths, pairwise(borders), strict=True)}
        self.device = device

    def summed(self, shares: Mapping[str, Addend], means: Tensor) -> tuple[Tensor, Tensor]:
        """The slots' sums over the ranks, `[n]` in fp64, see `named`, and the mean of `means` over them; all ranks call
        it together, and none waits for its device.

        A slot that `shares` leaves out counts 0. With BatchNorm's running statistics equal on all ranks, evaluation and
        checkpoints do not depend on which of them did it.
        """
        size = max((place.stop for place in self.places.values()), default=0)
        known = torch.zeros(size, dtype=torch.float64, pin_memory=self.device.type == "cuda")  # to the host
        for name, share in shares.items():
            if not isinstance(share, Tensor):
                known[self.places[name]] = torch.tensor(share, dtype=torch.float64)
        sums = known.to(self.device, non_blocking=True)
        for name, share in shares.items():
            if isinstance(share, Tensor):
                sums[self.places[name]] = share
        if dist.get_world_size() > 1:
            there = means.to(sums.device, torch.float64)  # of no BatchNorm, none is on a device
            packed = torch.cat([sums, there / dist.get_world_size()])
            dist.all_reduce(packed)
            sums, means = packed[:size], packed[size:].to(means.dtype)
        return sums, means

    def named(self, sums: list[float]) -> dict[str, list[float]]:
        """Each slot's numbers, of `summed`."""
        return {name: sums[place] for name, place in self.places.items()}
