"""The environment that says which rank a process is: refused where it is not whole."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import Command

from cluster.build.shards import write_shards
from cluster.config import load
from cluster.errors import NoMeeting, RunError
from cluster.jobs.processes import given_place, smaller

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


def test_a_graph_is_named_where_memory_has_run_out() -> None:
    words = ["train.micro_batch=8", "recompute.policy=unit"]
    ways = [smaller(load(None, [*words, f"engine.graph={graph}"]), 1) for graph in ("false", "true")]
    assert ["engine.graph=false" in way for way in ways] == [False, True]
