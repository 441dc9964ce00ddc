"""A run on shards that a server has: killed and resumed, it is the run on a local disk, to the bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import file_server as fs
import pytest
from forked import Command
from same_run import assert_equal

from cluster import config as configs
from cluster.build.data import opened
from cluster.build.shards import prepare, verify_shards, write_shards
from cluster.errors import RunError
from pipelines.errors import DataError

RECIPE = """\
name: run
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all, cm: 1, pm: 2}
data:
  dataset: digits
  window: 4
  workers: 1
  augment: {crop_padding: 1, flip: 0.5}
  cutmix: 0.5
  fetch: {tries: 3, pause: 0.05, timeout: 5}
train: {epochs: 1, global_batch: 160, micro_batch: 40, lr: 0.003, ema_decay: 0.9, threads: 1}
checkpoint: {every_steps: 3}
log: {curves: false, every_steps: 2}
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards("digits", folder, samples_per_shard=100)
    return folder


@pytest.fixture
def server(shards: Path) -> Iterator[fs.FileServer]:
    with fs.serving(shards) as server:
        yield server


def start(folder: Path, runs: str, *words: str) -> Command:
    (folder / "recipe.yaml").write_text(RECIPE)
    return Command("train", "recipe.yaml", f"runs_dir={runs}", "--processes", "2", *words, cwd=folder, merged=True)


def test_killed_and_resumed_it_is_the_run_on_a_local_disk(shards: Path, server: fs.FileServer, tmp_path: Path) -> None:
    """Two processes, a worker each, a cache for two windows, now and then a bad answer."""
    room = sum(sorted(path.stat().st_size for path in (shards / "train").glob("*.tar"))[-8:])
    words = [f"data.root={server.url}", "data.cache=cache", f"data.cache_gb={room / 1e9}"]
    for i in range(5):
        server.faults[f"train/train-00000{i}.tar"] = [fs.status(503), fs.cut, fs.flipped][: 1 + i % 2]
    local = start(tmp_path, "local", f"data.root={shards}")
    output, _ = local.communicate(timeout=120)
    assert local.returncode == 0, output
    killed = start(tmp_path, "remote", *words)
    deadline, most = time.monotonic() + 120, 0
    while not list((tmp_path / "remote/run/checkpoints").glob("step-*")) and time.monotonic() < deadline:
        most = max(most, size_of(tmp_path / "cache"))
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    again = start(tmp_path, "remote", *words)
    while again.poll() is None:
        most = max(most, size_of(tmp_path / "cache"))
        time.sleep(0.05)
    output = again.communicate()[0]
    assert again.returncode == 0 and "goes on from step" in output, output
    assert_equal(tmp_path / "local", tmp_path / "remote")
    assert room / 2 < most <= room


def size_of(folder: Path) -> int:
    total = 0
    for name in os.listdir(folder) if folder.exists() else ():
        with suppress(FileNotFoundError):
            total += (folder / name).stat().st_size
    return total


def test_a_server_that_fails_ends_a_run_with_one_line(cli: Any, server: fs.FileServer, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    for i in range(15):
        server.faults[f"train/train-{i:06d}.tar"] = [fs.status(503)] * 1000
    done = cli("train", "recipe.yaml", f"data.root={server.url}", "data.cache=cache")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and line.startswith(f"error: {server.url}/train/train-0000")
    assert "cannot be fetched (HTTP status 503; 3 tries); the same command goes on" in line


def test_prepare_checks_and_writing_is_refused(server: fs.FileServer, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = [f"data.root={server.url}", f"data.cache={tmp_path / 'cache'}"]
    assert prepare(tmp_path / "recipe.yaml", words) == tmp_path / "recipe.yaml"
    with pytest.raises(RunError, match=f"{server.url}/train holds digits, the configuration asks for cifar10"):
        prepare(tmp_path / "recipe.yaml", [*words, "data.dataset=cifar10"])
    for command in (partial(write_shards, "digits"), lambda folder: list(verify_shards(folder))):
        with pytest.raises(RunError, match="is not a local folder; write and verify shards on a disk"):
            command(Path(server.url))
    with pytest.raises(DataError, match="make data.cache_gb larger or data.window smaller"):
        opened(configs.load(tmp_path / "recipe.yaml", [*words, "data.cache_gb=0.0002"]), "train")
    with pytest.raises(RunError, match="data.window=2 can be 137 samples, fewer than two steps of train.global_batch"):
        opened(configs.load(tmp_path / "recipe.yaml", [*words, "data.window=2"]), "train")


READ = """
import os, sys
from cluster.config import load
from cluster.build.data import opened
from pipelines.errors import DataError
try:
    opened(load("recipe.yaml", sys.argv[1:]), "train").read(0)
except DataError as error:
    print(error)
print([name for name in os.listdir("disk/cache") if name.endswith(".part")])
"""


def test_a_full_disk_under_the_cache_is_one_line(on_small_disk: Any, server: fs.FileServer, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_shards("digits", server.folder / "large")  # a shard of more than a megabyte
    done = on_small_disk("-c", READ, f"data.root={server.url}/large", "data.cache=disk/cache")
    line, left = done.stdout.splitlines()
    assert line.startswith(f"no space left in disk/cache for {server.url}/large/train/train-000000.tar; free some")
    assert left == "[]"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.root=https://host/path"], "set data.window, such as data.window=8"),
        (["data.root=s3://bucket/path", "data.window=8"], "data.root: nothing here opens s3://"),
        (["data.root='pipe:cat x'", "data.window=8"], "has no {} for the path of a file"),
        (["data.window=0"], "data.window is 0; it must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_fetched(words: list[str], expected: str) -> None:
    with pytest.raises(RunError) as error:
        configs.load(None, words)
    assert expected in str(error.value)


def test_a_window_changes_the_numbers_and_the_cache_does_not() -> None:
    one = configs.load(None, ["data.window=4"])
    assert configs.differences(one, configs.load(None, ["data.window=4", "data.cache=x", "data.fetch.tries=2"])) == []
    assert configs.differences(one, configs.load(None)) == ["data.window (4, now null)"]
