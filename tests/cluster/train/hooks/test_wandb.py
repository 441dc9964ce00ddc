"""`log.wandb`, with wandb itself: one run for all starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Command

from cluster.run.folder import RunFolder
from cluster.run.wandb_id import identity, sent

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 16, threads: 1}
log: {every_steps: 1, wandb: online, wandb_project: trial}
"""
LEAVING = """
import os, signal
from cluster.cli import main
from cluster.train import loop

step = loop.Trainer.step
def leaving(self, *given):
    if self.state.step == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *given)
if os.environ["WANDB_API_KEY"]:
    loop.Trainer.step = leaving
main()
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_offline_it_is_one_run_for_all_starts(tmp_path: Path, few_digits: Path, short: Path) -> None:
    """`online` logs offline where nobody answers, and without a key; HOME is empty, so there is none."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    given = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path), "TMPDIR": str(short)}
    run = RunFolder(tmp_path / "runs" / "run")
    reasons = ("Failed to authenticate with http://127.0.0.1:9", "wandb has no key here: logging offline")
    for key, code, reason, step in (("0123456789" * 4, 143, reasons[0], 2), ("", 0, reasons[1], 4)):
        env = {**os.environ, **given, "WANDB_API_KEY": key}
        done = Command("train", "recipe.yaml", cwd=tmp_path, program=LEAVING, env=env).completed(280)
        assert done.returncode == code and reason in done.stdout, done.stdout + done.stderr
        assert sent(run) == step
        # What wandb makes as it is imported stays when a process ends as ours do: in the run, of its last start.
        assert not [*short.glob("tmp*wandb-*")] and len([*run.path.glob("wandb/tmp/*wandb-media")]) == 1
    name = identity(run)
    files = sorted((run.path / "wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    losses = [repr(row["loss"]).encode() for row in run.metrics.read() if "loss" in row]
    for file, own, others in zip(files, (losses[:2], losses[2:]), (losses[2:], losses[:2]), strict=True):
        content = file.read_bytes()
        assert all(value in content for value in (b"loss", b"trial", b"start.commit", b"firing/", *own))
        assert not any(value in content for value in others)
    accuracy = (run.summary() or {})["accuracy"]
    assert repr(accuracy).encode() in files[1].read_bytes() and b"train_seconds" in files[1].read_bytes()
