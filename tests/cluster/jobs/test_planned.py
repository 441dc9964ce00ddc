"""What a launch says of a run: a line of its plan, and warnings of what will not do."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cluster import config as configs
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs.planned import tell
from cluster.plan.absent import setup_of

GPU = Shape(1, 1, 1)


def told(tmp_path: Path, *words: str, shape: Shape = GPU, queued: bool = True) -> tuple[str, list[str]]:
    """What was printed, and the warnings."""
    config, out = configs.load("digits", [f"data.root={tmp_path}", *words]), io.StringIO()
    warnings = list(tell(setup_of(config, shape.world), shape, queued, out))
    return out.getvalue(), warnings


def test_of_a_gpu_that_is_known_a_line_says_memory_and_time(tmp_path: Path) -> None:
    said, warnings = told(tmp_path, "site.gpu=h100", "site.minutes=600")
    assert said.startswith("plan: ") and " GiB a process of 74.5; " in said and " s a step, " in said
    assert said.count("\n") == 1 and warnings == []


@pytest.mark.parametrize("shape", [GPU, Shape(1, 2, 0)])
@pytest.mark.parametrize("queued", [True, False])
def test_of_what_nobody_knows_the_memory_alone(tmp_path: Path, shape: Shape, queued: bool) -> None:
    said, warnings = told(tmp_path, "site.memory_gb=null", shape=shape, queued=queued)
    assert said.startswith("plan: ") and "time is not known (" in said and not warnings


def test_limits_that_make_no_sense_are_told_of_a_job_that_is_queued(tmp_path: Path) -> None:
    words = ("site.gpu=h100", "site.minutes=1", "site.signal_seconds=1")
    _, warnings = told(tmp_path, *words)
    assert any(line.startswith("site.minutes=1 is shorter than a start (") for line in warnings)
    assert told(tmp_path, *words, queued=False)[1] == []


def test_what_does_not_fit_is_refused_before_it_waits_in_a_queue(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="GiB"):
        told(tmp_path, "site.gpu=h100", "recompute.memory=0.001")
    with pytest.raises(RunError, match="no GPU is called 'h1000'"):
        told(tmp_path, "site.gpu=h1000")
