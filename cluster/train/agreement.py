"""What all ranks do alike, because one of them has looked or each has told the others."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from pipelines.errors import DataError
from pipelines.samples import Samples

from ..errors import RunError, user_errors
from ..run import checkpoint

T = TypeVar("T")


def of_first(value: T) -> T:
    """The first rank's value: a shared file system may show some ranks older files."""
    given = [value]
    dist.broadcast_object_list(given)
    return given[0]


def of_all(value: T) -> list[T]:
    """Every rank's value, by rank."""
    given = [value] * dist.get_world_size()
    dist.all_gather_object(given, value)
    return given


def by_first(act: Callable[[], T]) -> T:
    """Run `act` on the first rank and give its result, or its error, to all. Raises RunError, on all ranks."""
    result, error = None, None
    if dist.get_rank() == 0:
        try:
            result = act()
        except (RunError, DataError) as e:
            error = str(e)
    result, error = of_first((result, error))
    if error is not None:
        raise RunError(error)
    return result  # type: ignore[return-value] # what `act` returned


def by_all(act: Callable[[], T]) -> T:
    """Run `act` on every rank, which has its own result. Raises RunError, on all ranks, where it is an error on one."""
    result, error = None, None
    try:
        result = act()
    except user_errors() as e:
        error = str(e)
    said = next((e for e in of_all(error) if e is not None), None)
    if said is not None:
        raise RunError(said)
    return result  # type: ignore[return-value] # what `act` returned


def same_data(data: Samples) -> list[str]:
    """The host of each rank. Raises RunError, on all ranks, where theirs are not the same data."""
    (first, digest), *others = seen = of_all((socket.gethostname(), data.digest))
    for host, other in others:
        if other != digest:
            raise RunError(
                f"{data.folder} has digest {digest[:12]} on {first} and {other[:12]} on {host}; copy the same "
                "shards to all machines"
            )
    return [host for host, _ in seen]


def verified_by_all(path: Path, first_here: bool) -> str | None:
    """What the first machine that finds a fault says of a checkpoint: all use it or none. Of its ranks one, that is
    `first_here`, looks: they have one cache of its file systems."""
    return checkpoint.verify_together(
        path, of_all, lambda path: (checkpoint.verify(path) or "") if first_here else None
    )


def neighbours(ranks: int, minutes: float) -> dist.ProcessGroup | None:
    """The group of so many neighbouring ranks that this one is in; None: it is alone. All ranks get a group of their
    own as well: NCCL does the collectives of one group one after the other, so in that of the gradients each small one
    of BatchNorm's backward would wait for the bucket that was begun before it."""
    if ranks == 1:
        return None
    own: dist.ProcessGroup = dist.new_subgroups(ranks, timeout=timedelta(minutes=minutes))[0]
    return own
