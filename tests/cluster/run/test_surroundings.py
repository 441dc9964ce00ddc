"""What surrounds a run: the environment that says which rank it is, ports, threads, disks. Each trouble is one line."""

from __future__ import annotations

import os
import resource
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.build.shards import write_shards
from cluster.errors import RunError
from cluster.run.checkpoint import Saver
from cluster.train.watchdog import Watchdog


def start_the_watchdog(folder: Path) -> None:
    Watchdog(10).alive()


def begin_a_checkpoint(folder: Path) -> None:
    Saver(folder, 1).begin(1, {}, {}, False, lambda: None)


@pytest.mark.parametrize("begin", [start_the_watchdog, begin_a_checkpoint])
def test_no_memory_for_a_thread_is_one_line(tmp_path: Path, begin: Callable[[Path], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            threading.stack_size(2**28)  # more than what ended threads have left to be used again
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, -1))
            with pytest.raises(RunError, match="no thread can be started for .* more memory"):
                begin(tmp_path)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


DISK = """
import os, subprocess, sys
from pathlib import Path
from cluster.run.checkpoint import Saver
from cluster.config import Config, load
from cluster.errors import RunError
from cluster.config.shape import Shape
from cluster.jobs.launch import launch
from cluster.run import wandb_id
from cluster.run.folder import RunFolder
import torch

trouble, shards = sys.argv[1:]
run = RunFolder("disk/run")
run.open(Config())
run.metrics.append({"step": 1})
run.tell("running", step=1)
unsaved, fresh = RunFolder("disk/unsaved"), RunFolder("disk/fresh")
for folder in (unsaved, fresh):
    folder.open(Config())

def save(root):
    saver = Saver(root, 1)
    saver.begin(1, {"model": {"w": torch.ones(10_000)}}, {}, True, run.metrics.sync)
    saver.wait()

save(run.checkpoints)
before = {p: p.read_bytes() for p in Path("disk").rglob("*") if p.is_file()}
if trouble == "full":
    filler = os.open("disk/filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, bytes(1024))
    except OSError:
        pass
    expected = "no space left"
else:
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
    expected = "cannot write"

given = ["data.dataset=digits", f"data.root={shards}", "train.global_batch=160", "runs_dir=disk/more"]
other = RunFolder("disk/other")

def lock():
    with other.lock():
        pass

writes = {
    "the lock": lock,
    "a new folder": lambda: other.open(Config()),
    "a row": lambda: [run.metrics.append({"step": n, "text": "x" * 1000}) for n in range(100)],
    "the status": lambda: run.tell("running", reason="x" * 10_000),
    "the end": lambda: run.finish({"accuracy": 0.5, "epochs": 1, "step": 1, "text": "x" * 10_000}),
    "wandb's id": lambda: wandb_id.identity(fresh),
    "wandb's step": lambda: wandb_id.note_sent(run, 10),
    "aside": lambda: unsaved.open(load(None, ["train.lr=0.5"])),
    "a checkpoint": lambda: save(run.checkpoints),
    "a launch": lambda: launch(load(None, given), Shape(1, 1, 0), "local"),
}
for name, write in writes.items():
    try:
        write()
        sys.exit(f"{name}: accepted")
    except RunError as error:
        assert expected in str(error), (name, error)
for path, content in before.items():
    kept = path if path.exists() else path.parent / "before-1" / path.name
    assert kept.read_bytes() == content or (kept == run.metrics.path and kept.read_bytes().startswith(content)), kept
assert not [*Path("disk").rglob("*.tmp")]
assert [row["step"] for row in run.metrics.read("step")] == [1, *range(run.metrics.size() // 1000)]
assert run.said()["step"] == 1 and run.summary() is None
"""


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_disk_that_takes_no_more_is_one_line_for_every_write(
    on_small_disk: Any, tmp_path: Path, trouble: str
) -> None:
    """And what was there before is as it was."""
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    done = on_small_disk("-c", DISK, trouble, tmp_path / "shards")
    assert done.returncode == 0, done.stderr
