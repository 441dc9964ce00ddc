"""What ranks do alike: the first one's value, everybody's error, and the same data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import torch.distributed as dist
from forked import together

WORLD = 2


def ranks(rank: int, folder: str) -> None:
    from cluster.errors import RunError
    from cluster.train import agreement as agree
    from pipelines.errors import DataError

    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/meet", WORLD), rank=rank, world_size=WORLD)
    said: dict[str, object] = {"first": agree.of_first(f"of {rank}"), "all": agree.of_all(f"of {rank}")}
    called: list[int] = []
    said["by first"] = agree.by_first(lambda: called.append(rank) or f"by {rank}")
    said["called"] = called

    def fails(on: int, error: Exception) -> str:
        if rank == on:
            raise error
        return f"did {rank}"

    def told(act) -> str:
        try:
            return str(act())
        except RunError as error:
            return f"error: {error}"

    said["the first fails"] = told(lambda: agree.by_first(lambda: fails(0, DataError("no data"))))
    said["the last fails"] = told(lambda: agree.by_all(lambda: fails(1, RunError("no room"))))
    said["nobody fails"] = told(lambda: agree.by_all(lambda: fails(7, RunError("never"))))
    for name, digest in (("same", "a" * 20), ("other", "ab"[rank] * 20)):
        data = SimpleNamespace(folder="shards", digest=digest)
        said[f"{name} data"] = told(lambda data=data: len(agree.same_data(data)))
    said["alone"] = agree.neighbours(1, 1.0)
    group = agree.neighbours(2, 1.0)
    said["both"] = group is not None and group.size()
    Path(folder, f"{rank}.json").write_text(json.dumps(said))
    dist.barrier()
    os._exit(0)


def test_two_ranks(tmp_path: Path) -> None:
    together(ranks, WORLD, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD))
    for said in (first, second):
        assert said["first"] == "of 0" and said["all"] == ["of 0", "of 1"] and said["by first"] == "by 0"
        assert said["the first fails"] == "error: no data" and said["the last fails"] == "error: no room"
        assert said["same data"] == "2"
        assert said["other data"].startswith(f"error: shards has digest {'a' * 12} on ")
        assert (
            said["other data"].endswith("; copy the same shards to all machines")
            and f" {'b' * 12} on " in said["other data"]
        )
        assert said["alone"] is None and said["both"] == 2
    assert (first["called"], second["called"]) == ([0], [])
    assert (first["nobody fails"], second["nobody fails"]) == ("did 0", "did 1")
