"""A plugin from outside the tree in a run's life: trained with in two processes, evaluated, exported, launched."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.build.shards import write_shards
from cluster.run.folder import RunFolder

RECIPE = """\
name: run
plugins: [lab.rules]
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: shards}
train: {global_batch: 480, norm_batch: 48, threads: 1, lr: 0.1, optimizer: nesterov, schedule: halves}
log: {curves: false, every_steps: 1}
"""
RULES = """
import torch

from cluster.build.optimizers import OPTIMIZERS, Optimizer
from cluster.train.schedule import SCHEDULES


def nesterov(groups, train):
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.betas[0], nesterov=True)


OPTIMIZERS.register("nesterov", Optimizer(nesterov, ("momentum_buffer",)))


@SCHEDULES.register("halves")
def halves(train, progress):
    return train.lr * 0.5 ** int(3 * progress)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("")
    (tmp_path / "lab" / "rules.py").write_text(RULES)
    return tmp_path


def rates(run: RunFolder) -> list[float]:
    return [row["lr"] for row in run.metrics.read() if "lr" in row]


def checked(done: Any, code: int = 0) -> str:
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.timeout(600)  # two trainings
def test_a_run_has_its_plugins_wherever_it_goes(cli: Any, folder: Path) -> None:
    checked(cli("train", "recipe.yaml", "--processes", "2"))
    run = RunFolder(folder / "runs" / "run")
    assert rates(run) == pytest.approx([0.1, 0.05])
    starts, _ = run.starts.whole()
    assert starts[-1]["plugins"].keys() == {"lab.rules"}
    again = "plugins=[lab.rules]"
    for words in (("eval", "runs/run"), ("export", "runs/run", "m.safetensors")):
        line = checked(cli(*words), 2)
        assert f"has a stored command, {again}, which is only run where it is given again" in line
        checked(cli(*words, again))
    described = json.loads((folder / "m.safetensors.json").read_text())
    assert described["config"]["plugins"] == ["lab.rules"]
    assert "changes nothing in an export" in checked(cli("export", "runs/run", "m.safetensors", again, "train.lr=1"), 2)
    assert f"has a stored command, {again}" in checked(cli("eval", "m.safetensors"), 2)

    checked(cli("launch", "recipe.yaml", "--where", "local", "name=job"))
    (folder / "lab").rename(folder / "gone")  # the job has a copy
    job = RunFolder(folder / "runs" / "job")
    deadline = time.monotonic() + 300
    while job.summary() is None:
        logs = [p.read_text() for p in job.path.glob("logs/*.out")]
        assert time.monotonic() < deadline, [job.status(), *logs]
        time.sleep(0.2)
    assert (job.path / "code" / "lab" / "rules.py").read_text() == RULES
    assert rates(job) == pytest.approx([0.1, 0.05])
    assert job.starts.whole()[0][-1]["plugins"] == starts[-1]["plugins"]
    assert f"has a stored command, {again}" in checked(cli("resume", "runs/job"), 2)
