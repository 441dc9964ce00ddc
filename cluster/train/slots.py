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

    def summed(self, shares: Mapping[str, Addend], means: Tensor) -> tuple[dict[str, list[float]], Tensor]:
        """Each slot's sums over the ranks, in fp64, and the mean of `means` over them; all ranks call it together.

        A slot that `shares` leaves out counts 0. With BatchNorm's running statistics equal on all ranks, evaluation and
        checkpoints do not depend on which of them did it.
        """
        size = max((place.stop for place in self.places.values()), default=0)
        sums = torch.zeros(size, dtype=torch.float64, device=self.device)
        for name, share in shares.items():
            sums[self.places[name]] = share if isinstance(share, Tensor) else torch.tensor(share, dtype=torch.float64)
        if dist.get_world_size() > 1:
            packed = torch.cat([sums, means.double() / dist.get_world_size()])
            dist.all_reduce(packed)
            sums, means = packed[:size], packed[size:].to(means.dtype)
        told = sums.tolist()
        return {name: told[place] for name, place in self.places.items()}, means
