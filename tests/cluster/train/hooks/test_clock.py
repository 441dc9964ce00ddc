"""clock.jsonl and traces of a real run: killed, gone on with, and with the numbers of one that has neither."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Command

from cluster.run.clock import PARTS
from cluster.run.folder import RunFolder
from cluster.run.goodput import account, steps
from cluster.run.speed import WARM_UP

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 2, global_batch: 10, threads: 1}
checkpoint: {every_steps: 4, keep: 9}
log: {every_steps: 1, profile_steps: [2, 6]}
"""
KILLED = """
import os, signal
from cluster.cli import main
from cluster.train import loop

step = loop.Trainer.step
def killed(self, *given):
    if self.state.step == 6:
        self.saved()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *given)
if "DIE" in os.environ:
    loop.Trainer.step = killed
main()
"""
WITHOUT = """
from cluster.cli import main
from cluster.train.hooks import HOOKS
for name in ("clock", "speed"):
    HOOKS.get(name).wanted = classmethod(lambda cls, config: False)
main()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, few_digits: Path) -> Iterator[tuple[Path, float]]:
    """A folder with two runs: `run`, which was killed after step 6 of 14 and went on from 4, with traces of its steps;
    `without` clock, speed and traces. And the seconds that both starts of `run` took."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    begun = time.monotonic()
    for more in ({"DIE": "1"}, {}):
        done = Command("train", "recipe.yaml", cwd=folder, program=KILLED, env=os.environ | more).completed(280)
        assert done.returncode == (-signal.SIGKILL if more else 0), done.stderr
        assert more or "step 6 is traced in runs/run/profile/step-6-rank-0.json.gz" in done.stdout
    lasted = time.monotonic() - begun
    words = ("train", "recipe.yaml", "name=without", "log.profile_steps=[]")
    done = Command(*words, cwd=folder, program=WITHOUT).completed(280)
    assert done.returncode == 0, done.stderr
    yield folder / "runs", lasted


def test_what_is_done_again_is_what_the_kill_has_cost(runs: tuple[Path, float]) -> None:
    run, lasted = RunFolder(runs[0] / "run"), runs[1]
    found = account(run)
    assert (found.starts, found.again) == (2, 2)
    assert 0 < 3600 * found.device_hours <= lasted
    rows = run.clock.read("start", "seconds")
    first, second = ([row for row in rows if row["start"] == start] for start in (1, 2))
    assert 3600 * found.device_hours == pytest.approx(first[-1]["seconds"] + second[-1]["seconds"], abs=0.01)
    assert next(row["step"] for row in second if "steps" in row) == 5 and "exit_code" not in first[-1]
    assert second[-1]["exit_code"] == 0
    shares = {key: share for key, share in found.row().items() if key != "gpu_hours"}
    assert sum(share or 0 for share in shares.values()) == pytest.approx(1, abs=1e-5)
    assert min(found.spent[cause] for cause in ("good", "start", "data", "checkpoint", "evaluation", "recomputed")) > 0
    assert found.spent["queue"] == 0


def test_the_parts_of_a_start_are_no_more_than_it(runs: tuple[Path, float]) -> None:
    run = RunFolder(runs[0] / "run")
    rows = [row for row in run.clock.read() if "steps" in row]
    for row in rows:
        assert sum(row[part] for part in PARTS) <= row["seconds"] + 0.01
    last = rows[-1]
    assert last["steps"] == 10 and last["step"] == 14 and all(last[part] > 0 for part in PARTS)
    # The steps after the warm-up took what speed.jsonl has of them, which measures them by itself.
    speed = [row for row in run.speed.read() if row["step"] > 4 + WARM_UP][-(10 - WARM_UP) :]
    assert last["data"] + last["train"] == pytest.approx(sum(row["seconds"] for row in speed), rel=0.1)
    found = steps(run)
    low, median, high = (found[f"seconds_step{name}"] for name in ("_low", "", "_high"))
    assert low is not None and median is not None and high is not None and 0 < low <= median <= high


def test_a_start_notes_its_operations(runs: tuple[Path, float]) -> None:
    run = RunFolder(runs[0] / "run")
    one, other = run.starts.read()
    facts = ("device", "world", "parameters", "flop_image", "flop_image_done")
    assert [one[key] for key in facts] == [other[key] for key in facts]
    assert one["device"] == "CPU" and one["world"] == 1 and one["flop_image"] == one["flop_image_done"] > 1e6
    for row in run.speed.read():
        assert set(row) >= {"tflops"} and not {"mfu", "hfu"} & set(row)  # a CPU is in no table
        assert row["tflops"] == pytest.approx(row["images_per_second"] * one["flop_image"] / 1e12, rel=1e-3)


def test_no_number_of_the_run_is_another_with_it(runs: tuple[Path, float]) -> None:
    one, other = (RunFolder(runs[0] / name) for name in ("run", "without"))
    assert one.metrics.path.read_bytes() == other.metrics.path.read_bytes()
    assert not other.speed.path.exists() and "steps" not in other.clock.read()[0]


@pytest.mark.parametrize("step", [2, 6])
def test_a_trace_has_what_the_step_did(runs: tuple[Path, float], step: int) -> None:
    with gzip.open(runs[0] / "run" / "profile" / f"step-{step}-rank-0.json.gz") as file:
        trace: dict[str, Any] = json.load(file)
    names = {event.get("name") for event in trace["traceEvents"]}
    assert names >= {"_Unit", "_UnitBackward", "aten::conv2d", "aten::convolution_backward"}


def test_no_other_step_is_traced(runs: tuple[Path, float]) -> None:
    folder = runs[0] / "run" / "profile"
    assert sorted(path.name for path in folder.iterdir()) == ["step-2-rank-0.json.gz", "step-6-rank-0.json.gz"]
    assert not (runs[0] / "without" / "profile").exists()


def test_status_of_one_run_tells_its_goodput(runs: tuple[Path, float]) -> None:
    env = {**os.environ, "COLUMNS": "200"}
    done = Command("status", "runs/run", cwd=runs[0].parent, env=env).completed()
    assert f"goodput: {account(RunFolder(runs[0] / 'run'))}" in done.stdout.splitlines(), done.stderr
    whole = Command("status", "--json", cwd=runs[0].parent, env=env).completed().stdout.splitlines()
    rows = {row["run"]: row for row in map(json.loads, whole)}
    assert rows["run"]["goodput"] == account(RunFolder(runs[0] / "run")).row()
    assert rows["run"]["tflops"] > 0 and rows["run"]["mfu"] is None
    assert "goodput" not in Command("status", cwd=runs[0].parent, env=env).completed().stdout
