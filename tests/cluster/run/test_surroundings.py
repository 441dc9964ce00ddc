"""What surrounds a run: the environment that says which rank it is, ports, threads, disks. Each trouble is one line."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Command

from cluster.build.shards import write_shards
from cluster.config import load
from cluster.errors import NoMeeting, RunError
from cluster.jobs.processes import given_place
from cluster.run.checkpoint import Saver
from cluster.train.watchdog import Watchdog

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LOCAL = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def become(variables: dict[str, str]) -> None:
        for name in (*TORCHRUN, *LOCAL):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return become


def test_any_part_of_what_torchrun_sets_is_refused_with_what_is_missing(environment: Any) -> None:
    both = TORCHRUN | LOCAL
    for count in range(len(both) + 1):
        for names in itertools.combinations(both, count):
            environment({name: both[name] for name in names})
            missing = [name for name in TORCHRUN if name not in names]
            if not names:
                assert given_place() is None
            elif not missing:
                assert given_place() == (1, 2)
            else:
                with pytest.raises(RunError, match=f"has {', '.join(names)} without {', '.join(missing)};"):
                    given_place()


@pytest.mark.parametrize("name", [n for n in (*TORCHRUN, *LOCAL) if n != "MASTER_ADDR"])
@pytest.mark.parametrize("value", ["", "one", "-1", "1.5", "٣", "0x1", "9" * 30])
def test_what_is_no_number_is_refused_with_its_name(environment: Any, name: str, value: str) -> None:
    environment(TORCHRUN | LOCAL | {name: value})
    with pytest.raises(RunError, match=f"^{name} is '"):
        given_place()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "2"}, "RANK is 2 in the environment; it must be below WORLD_SIZE, 2"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "RANK is 0 in the environment; it must be below WORLD_SIZE, 0"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2 in the environment; it must be below LOCAL_WORLD_SIZE, 2"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is 0 in the environment; a port is 1 to 65535"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is 65536 in the environment"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(environment: Any, given: dict[str, str], said: str) -> None:
    environment(TORCHRUN | LOCAL | given)
    with pytest.raises(RunError, match=said):
        given_place()


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    write_shards("digits", tmp_path / "shards", samples_per_shard=500)
    words = ("data.dataset=digits", "data.root=shards", "train.global_batch=160", "runs_dir=runs")
    (tmp_path / "empty.yaml").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = os.environ | TORCHRUN | {"RANK": "0", "MASTER_PORT": str(port)}
        done = Command("train", "empty.yaml", *words, cwd=tmp_path, env=env).completed()
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"the 2 ranks do not meet at 127.0.0.1:{port}" in line and "another MASTER_PORT" in line
    assert "Traceback" not in done.stderr
    assert issubclass(NoMeeting, RunError)  # of a job it is no user's error: its next start has another port


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


@pytest.mark.parametrize("project", ["tdformer", "team/proj", "team/my project", "x" * 128])
def test_a_project_of_wandb_may_name_its_entity(project: str) -> None:
    assert load(None, ["log.wandb=offline", f"log.wandb_project={project}"]).log.wandb_project == project


@pytest.mark.parametrize("project", ["a/b/c", "/b", "a/", "a#b", "a%b", "a:b", "a?b", "a\\b", "x" * 129])
def test_what_wandb_does_not_take_as_a_project_is_refused(project: str) -> None:
    with pytest.raises(RunError, match="give PROJECT or ENTITY/PROJECT"):
        load(None, ["log.wandb=offline", f"log.wandb_project={project}"])


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
