"""Checkpoints: whole or not there, verified, the newest good one used."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RunError
from cluster.run import checkpoint

PARTS = {"model": {"a.weight": torch.arange(6.0).view(2, 3)}, "optimizer": {"exp_avg.a.weight": torch.ones(2, 3)}}


def write(root: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        checkpoint.save(root, step, PARTS, {"step": step}, keep)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, 3)
    parts, state = checkpoint.load(tmp_path / "step-00000003")
    assert state == {"step": 3}
    for part, tensors in PARTS.items():
        for name, tensor in tensors.items():
            assert torch.equal(parts[part][name], tensor)
    assert (tmp_path / "latest").read_text() == "step-00000003\n"


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000004", "step-00000003"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000003", "step-00000004"]


def test_the_best_one_is_kept_too(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, PARTS, {"step": step}, 2, best=step in (1, 2))
    assert [p.name for p in checkpoint.complete(tmp_path)] == [f"step-0000000{n}" for n in (5, 4, 2)]
    assert (tmp_path / "best").read_text() == "step-00000002\n"


def test_a_background_save_tells_its_failure_when_waited_for(tmp_path: Path) -> None:
    saver, called = checkpoint.Saver(tmp_path, 2), []
    saver.begin(1, PARTS, {"step": 1}, False, lambda: called.append(1))
    saver.wait()
    assert called == [1] and checkpoint.verify(tmp_path / "step-00000001") is None
    (tmp_path / ".step-00000002.tmp").mkdir()  # a left-over is no obstacle
    saver.begin(2, PARTS, {"step": object()}, False, lambda: None)
    with pytest.raises(TypeError):
        saver.wait()
    saver.wait()
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000001"]


def test_a_save_by_minutes_waits_for_its_time_and_for_the_one_before(tmp_path: Path) -> None:
    saver, slow_disk = checkpoint.Saver(tmp_path, 2), threading.Event()
    assert saver.due(1e-9) and not saver.due(1) and not saver.due(None)
    saver.begin(1, PARTS, {}, False, lambda: (slow_disk.wait(60), None)[1])
    assert not saver.due(1e-9)
    slow_disk.set()
    while not saver.due(1e-9):
        time.sleep(0.001)
    assert checkpoint.verify(tmp_path / "step-00000001") is None and not saver.due(1)
    saver.wait()
    assert saver.due(1e-9) and not saver.due(None)


def test_killed_at_fifty_random_moments_around_a_save(tmp_path: Path) -> None:
    """A process that saves in the background without a pause: whenever it dies, the newest checkpoint is whole, and no
    older one was lost for it."""
    moments, step, kills = random.Random(0), 0, 0
    while kills < 50 or step <= 20:  # on a loaded machine few saves are done before a kill
        kills += 1
        assert kills < 1000
        child = os.fork()
        if child == 0:
            saver = checkpoint.Saver(tmp_path, 2)
            for n in range(step + 1, step + 10**6):
                saver.begin(n, PARTS, {"step": n}, False, lambda: None)
                saver.wait()
        time.sleep(moments.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoint.complete(tmp_path)
        assert all(checkpoint.verify(path) is None for path in found)
        now = checkpoint.step_of(found[0]) if found else 0
        assert now >= step and len(found) >= min(step, 2)
        step = now


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("fault", ["flip", "cut", "remove"])
def test_a_damaged_one_is_named_and_the_one_before_used(tmp_path: Path, file: str, fault: str) -> None:
    write(tmp_path, 1, 2)
    damaged = tmp_path / "step-00000002" / file
    if fault == "flip":
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 0xFF
        damaged.write_bytes(content)
    elif fault == "cut":
        damaged.write_bytes(damaged.read_bytes()[:-3])
    else:
        damaged.unlink()
    warnings: list[str] = []
    assert checkpoint.newest_good(tmp_path, warnings.append) == tmp_path / "step-00000001"
    assert len(warnings) == 1 and "step-00000002 is damaged" in warnings[0] and file in warnings[0]
    with pytest.raises(RunError, match="step-00000002 is damaged"):
        checkpoint.load(tmp_path / "step-00000002")


def test_all_damaged_is_an_error_and_none_is_not(tmp_path: Path) -> None:
    assert checkpoint.newest_good(tmp_path / "empty", pytest.fail) is None
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match="every checkpoint in .* is damaged"):
        checkpoint.newest_good(tmp_path, lambda message: None)


def test_the_same_step_again_replaces_a_damaged_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / "state.json").unlink()
    write(tmp_path, 1)
    assert checkpoint.verify(tmp_path / "step-00000001") is None


FULL = """
import torch
from pathlib import Path
from cluster.run import checkpoint
from cluster.errors import RunError
root = Path("disk/checkpoints")
checkpoint.save(root, 1, {"model": {"w": torch.ones(10)}}, {}, 1)
try:
    checkpoint.save(root, 2, {"model": {"w": torch.zeros(1_000_000)}}, {}, 1)
except RunError as error:
    print(error)
print(sorted(p.name for p in root.iterdir()), checkpoint.verify(root / "step-00000001"))
"""


def test_a_full_disk_keeps_what_was_there(on_small_disk: Any) -> None:
    done = on_small_disk("-c", FULL)
    error, left = done.stdout.splitlines()
    assert error.startswith("no space left for checkpoint disk/checkpoints/step-00000002; free some")
    assert left == "['latest', 'step-00000001'] None"


SAVER = """
import sys, itertools, torch
from pathlib import Path
from cluster.run import checkpoint
for step in itertools.count(1):
    part = {"w": torch.full((200_000,), float(step))}
    checkpoint.save(Path(sys.argv[1]), step, {"model": part}, {"step": step}, 2)
    print(step, flush=True)
"""


def test_sigkill_at_any_moment_leaves_whole_checkpoints_only(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for attempt in range(6):
        root = tmp_path / str(attempt)
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(root)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert saver.stdout is not None
        assert saver.stdout.readline() == "1\n"
        time.sleep(0.05 + 0.0137 * attempt)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        found = checkpoint.complete(root)
        assert found
        for path in found:
            assert checkpoint.verify(path) is None
            parts, state = checkpoint.load(path)
            assert parts["model"]["w"].unique().tolist() == [state["step"]] == [checkpoint.step_of(path)]
        assert (root / "latest").read_text().strip() in [p.name for p in found]
        checkpoint.save(root, 10**6, {"model": {}}, {}, 1)
        assert not list(root.glob(".*"))


def test_the_manifest_lists_every_file(tmp_path: Path) -> None:
    write(tmp_path, 1)
    folder = tmp_path / "step-00000001"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert sorted(listed) == sorted(p.name for p in folder.iterdir() if p.name != "manifest.json")
