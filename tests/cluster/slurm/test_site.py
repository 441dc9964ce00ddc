"""What a cluster has, and whether it would take a job: what waits, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stand_in_slurm import Site

from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs.launch import launch

NEVER = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize(
    ("states", "said", "shape", "waits"),
    [
        ("idle drained", NEVER, Shape(2, 1, 0), "n1 drained"),
        ("down* down*", NEVER, Shape(1, 1, 0), "n0 down*, n1 down*"),
        ("maint idle", NEVER, Shape(2, 8, 0), "n0 maint"),
        ("allocated mixed", "allocation failure: Requested nodes are busy", Shape(1, 1, 0), "Requested nodes are busy"),
        ("idle drained", NEVER, Shape(3, 1, 0), None),  # it has two
        ("idle drained", NEVER, Shape(2, 9, 0), None),  # of 8 cores
        ("idle drained", NEVER, Shape(2, 1, 1), None),  # and no GPU
        ("idle idle", NEVER, Shape(2, 1, 0), None),  # something else
        ("idle drained", "allocation failure: Invalid feature specification", Shape(2, 1, 0), None),
    ],
)
def test_what_cannot_begin_now_waits_and_what_never_can_is_refused(
    site: Site, asked: Any, tmp_path: Path, capsys: Any, states: str, said: str, shape: Shape, waits: str | None
) -> None:
    site.partition(states=states)
    site.answers("sbatch", f'[ "$1" = --test-only ] && echo "{said}" >&2 && exit 1; echo "Submitted batch job 77"')
    config = asked("train.global_batch=144", "train.norm_batch=null")
    if waits is None:
        with pytest.raises(RunError, match="Slurm refuses the job: "):
            launch(config, shape, "slurm")
        assert not (tmp_path / "runs").exists()
        return
    assert launch(config, shape, "slurm") == 0
    told = capsys.readouterr()
    assert "is job 77" in told.out and f"cannot begin the job now, and it will wait ({waits})" in told.err


@pytest.mark.parametrize(
    ("minutes", "partition", "limit", "refused"),
    [(1440, None, "1-00:00:00", False), (1441, None, "1-00:00:00", True), (10**5, None, "UNLIMITED", False)],
)
def test_the_limit_of_a_partition(
    site: Site, asked: Any, minutes: int, partition: str | None, limit: str, refused: bool
) -> None:
    site.partition(limit=limit)
    config = asked(f"site.minutes={minutes}")
    if refused:
        with pytest.raises(RunError, match="above the limit of partition gpu, 1440"):
            launch(config, Shape(1, 1, 0), "slurm")
    else:
        assert launch(config, Shape(1, 1, 0), "slurm") == 0


@pytest.mark.parametrize(
    ("gres", "gpus", "said"), [("gpu:a100:4(S:0-1)", 0, "--gpus-per-node 4"), ("(null)", 0, ""), ("gpu:4", 4, "")]
)
def test_gpus_that_nobody_asked_for(site: Site, asked: Any, capsys: Any, gres: str, gpus: int, said: str) -> None:
    site.partition(gres=gres)
    assert launch(asked(), Shape(1, 1, gpus), "slurm") == 0
    err = capsys.readouterr().err
    assert ("none is asked for" in err) == bool(said) and said in err


def test_gpus_that_are_not_there(site: Site, asked: Any) -> None:
    site.answers("sbatch", "echo 'sbatch: error: Invalid generic resource (gres) specification' >&2; exit 1")
    with pytest.raises(RunError, match="gres.* specification; no node of partition gpu has GPUs"):
        launch(asked(), Shape(1, 1, 4), "slurm")
