"""The global batches of an epoch, put together from what each rank's loader gives."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.loader import Batch, train_loader
from pipelines.order import Cursor, Share
from pipelines.samples import Samples


def global_batches(data: Samples, at: Cursor, world: int = 1, accumulation: int = 1, **options: Any) -> list[Batch]:
    """Every one from the cursor on, the micro-batches of all ranks by their positions. options: of `train_loader`."""
    micro = at.global_batch // world // accumulation
    ranks = [train_loader(data, at, Share(micro, accumulation, rank, world), **options) for rank in range(world)]
    whole = []
    for lists in zip(*ranks, strict=True):
        assert [len(batches) for batches in lists] == [accumulation] * world
        parts = sorted((batch for batches in lists for batch in batches), key=lambda batch: batch.position)
        assert [part.position for part in parts] == list(range(0, at.global_batch, micro))
        images, labels, ids = (torch.cat([getattr(p, k) for p in parts]) for k in ("images", "labels", "ids"))
        whole.append(Batch(images, labels, ids, 0, {i: line for part in parts for i, line in part.damaged.items()}))
    return whole


def same(a: list[Batch], b: list[Batch]) -> bool:
    """Whether they are equal to the bit."""
    return len(a) == len(b) and all(
        torch.equal(getattr(x, k), getattr(y, k))
        for x, y in zip(a, b, strict=True)
        for k in ("images", "labels", "ids")
    )
