"""`log.profile_steps`: whose files are replaced, and which steps are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.config import NEUTRAL, load
from cluster.errors import RunError
from cluster.run.folder import RunFolder
from cluster.train.hooks.profile import Profile
from cluster.train.step import Step


@pytest.fixture
def hook(tmp_path: Path) -> Profile:
    (tmp_path / "run").mkdir()
    made = Profile(load(None, ["log.profile_steps=[3]"]))
    said: list[str] = []
    run = {"rank": 0, "folder": RunFolder(tmp_path / "run"), "device": torch.device("cpu"), "total_steps": 3}
    seen: Any = SimpleNamespace(**run, monitor=SimpleNamespace(say=said.append), said=said)
    made.begin(seen, [])
    return made


def trace(hook: Profile, size: int) -> None:
    """Steps 2 and 3, in which tensors of a size are added."""
    for number in (2, 3):
        with hook.during(Step(number, 0, 0.1, True, images=1, begun=0.0, waited=0.0)):
            torch.zeros(size) + 1


def said(hook: Profile) -> list[str]:
    return hook.run.said  # type: ignore[attr-defined,no-any-return] # of the stand-in


def test_a_step_that_is_done_again_replaces_its_trace(hook: Profile) -> None:
    file = hook.run.folder.path / "profile" / "step-3-rank-0.json.gz"
    for size in (5, 7):
        trace(hook, size)
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        shapes = [event["args"].get("Input Dims", []) for event in events if event.get("name") == "aten::add"]
        assert [[size] in dims for dims in shapes] == [True]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert said(hook) == [f"step 3 is traced in {file}"] * 2


@pytest.mark.parametrize("content", [b"mine", b"", gzip.compress(b"{}", mtime=0)])
def test_a_file_that_we_did_not_write_stays(hook: Profile, content: bytes) -> None:
    file = hook.run.folder.path / "profile" / "step-3-rank-0.json.gz"
    file.parent.mkdir()
    file.write_bytes(content)
    trace(hook, 5)
    assert file.read_bytes() == content and [path.name for path in file.parent.iterdir()] == [file.name]
    assert said(hook) == [f"warning: {file} is a file that tdformer did not write: step 3 is not traced"]


def test_other_ranks_trace_nothing(hook: Profile) -> None:
    hook.run.rank = 1
    trace(hook, 5)
    assert not (hook.run.folder.path / "profile").exists() and not said(hook)


def test_steps_that_are_none_are_one_line(hook: Profile) -> None:
    for value in ("[0]", "[-1]", "[2.5]", "x"):
        with pytest.raises(RunError, match=r"log\.profile_steps is .*; "):
            load(None, [f"log.profile_steps={value}"])
    hook.run.total_steps = 2
    with pytest.raises(RunError, match="log.profile_steps has 3, and the run has 2 steps; leave it out"):
        hook.begin(hook.run, [])


def test_it_decides_no_number_and_is_off() -> None:
    assert "log.profile_steps" in NEUTRAL and not Profile.wanted(load(None))
