"""The rules that a study ends its cells by."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import load
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.signals import KINDS, Notice
from cluster.train.hooks.limits import Limits
from cluster.train.step import Step


def begun(runs: Path, rank: int = 0, **rules: Any) -> tuple[Limits, RunFolder, Notice]:
    config = load(None, [f"runs_dir={runs}", f"name=rank-{rank}"])
    folder, notice = RunFolder(config.run_path), Notice()
    folder.path.mkdir(exist_ok=True)
    assert not Limits.wanted(config)
    folder.limits_file.write_text(json.dumps(rules))
    assert Limits.wanted(config)
    hook = Limits(config)
    hook.begin(SimpleNamespace(rank=rank, folder=folder, notice=notice), [])  # type: ignore[arg-type] # all that it looks at
    return hook, folder, notice


def step(number: int, loss: float | None = None, applied: bool = True, overflow: bool = False) -> Step:
    made = Step(number=number, epoch=0, lr=0.1, logs=True, images=8, begun=0.0, waited=0.0)
    made.loss, made.applied, made.overflow = loss, applied, overflow
    return made


def test_a_loss_above_its_limit_after_a_step_ends_a_run_once(tmp_path: Path) -> None:
    hook, folder, notice = begun(tmp_path, loss_above=2.0, after_step=3)
    for number, loss in ((3, 9.0), (4, 2.0), (4, None)):
        hook.logged(step(number, loss))
    hook.step(step(5, applied=False))
    assert not folder.stopped_file.exists() and not any(notice.seen)
    hook.logged(step(5, 2.5))
    hook.logged(step(6, 3.0))
    assert json.loads(folder.stopped_file.read_text()) == {"step": 5, "rule": "loss 2.5 is above 2 after step 3"}
    assert [kind for kind, seen in zip(KINDS, notice.seen, strict=True) if seen] == [signal.SIGTERM]


def test_a_step_that_is_not_finite_ends_all_ranks_and_the_first_says_why(tmp_path: Path) -> None:
    for rank in (0, 1):
        hook, folder, notice = begun(tmp_path, rank, not_finite=True)
        hook.step(step(1, applied=False, overflow=True))  # the loss scale was too high
        assert not any(notice.seen)
        hook.step(step(2, applied=False))
        assert any(notice.seen) and folder.stopped_file.exists() == (rank == 0)


def test_rules_that_are_none_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"limits.json has 'much' as loss_above; run the study again"):
        begun(tmp_path, loss_above="much")
