"""The run folder: one process at a time, rows whole or not at all, and never two runs in one place."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest
import torch

from cluster.config import Config, load
from cluster.errors import RunError
from cluster.run.folder import RunFolder

HOLD = """
import sys, time
from cluster.run.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""
HOLD_AND_FORK = """
import os, sys, time
from cluster.run.folder import RunFolder
with RunFolder(sys.argv[1]).lock():
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    sys.stdin.readline()
"""


def test_a_folder_in_use_names_its_holder(tmp_path, python):
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD, run.path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError) as failure, run.lock(wait=0.2):
        pass
    assert f"process {holder.pid} on {socket.gethostname()}" in str(failure.value)
    holder.communicate("\n")
    assert holder.returncode == 0
    with run.lock():
        pass


def test_a_killed_holder_frees_the_folder(tmp_path, python):
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD, run.path)
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.lock():
        assert json.loads((run.path / "lock.2").read_text())["pid"] == os.getpid()


def test_a_killed_holder_frees_the_folder_though_its_children_live(tmp_path, python):
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD_AND_FORK, run.path)
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(RunError), run.lock():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # still there
        with run.lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_waiting_for_a_holder_that_leaves(tmp_path, python):
    run = RunFolder(tmp_path / "run")
    holder = python(HOLD, run.path)
    assert holder.stdout.readline() == "held\n"
    holder.stdin.write("\n")
    holder.stdin.flush()
    began = time.monotonic()
    with run.lock(wait=30):
        assert time.monotonic() - began < 30
    with run.lock():  # and again, in the same process
        pass


def test_a_lock_is_given_back_after_an_error(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyError), run.lock():
        raise KeyError
    with run.lock(), pytest.raises(RunError, match="in use"), RunFolder(run.path).lock():
        pass


def test_a_run_is_taken_up_with_the_same_settings_only(tmp_path):
    run = RunFolder(tmp_path / "run")
    config = load(None, ["train.lr=0.002"])
    run.open(config)
    run.open(load(None, ["train.lr=0.002", "data.workers=2"]))
    assert run.config() == config
    (run.checkpoints / "step-00000001").mkdir()
    with pytest.raises(RunError, match=r"train\.lr \(0\.002, now 0\.001\)"):
        run.open(Config())
    starts = run.starts.read()
    assert [s["pid"] for s in starts] == [os.getpid()] * 2
    assert starts[0]["torch"] == torch.__version__
    assert {"commit", "dirty", "time", "host", "command"} <= starts[0].keys()


def test_results_without_a_configuration_are_not_overwritten(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.metrics.append({"step": 1})
    with pytest.raises(RunError, match=r"no config\.yaml"):
        run.open(Config())
    assert not run.config_file.exists()


def test_a_start_that_was_killed_at_once_can_be_taken_up(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    (run.path / ".config.yaml.0123abcd.tmp").write_text("na")
    run.open(Config())
    assert run.config() == Config()


def test_a_run_is_finished_when_it_has_a_summary(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.open(Config())
    assert run.summary() is None
    run.finish({"accuracy": 0.875, "epochs": 1, "step": 8})
    assert run.summary() == {"accuracy": 0.875, "epochs": 1, "step": 8}
    run.summary_file.write_text('{"accu')
    with pytest.raises(RunError, match=r"summary\.json is not JSON"):
        run.summary()
