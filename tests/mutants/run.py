"""Puts each edit of `edits.EDITS` into a copy of the tree and runs the tests that must fail then.

`python tests/mutants/run.py [NAME ...]`: all, or those whose name has one of the words in it. Each runs in a fork of
this process, which has imported what others wrote, as that takes longer than most of the tests. The exit code is 1
unless all of them are killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from edits import EDITS, Edit, places, where

TREE = Path(__file__).parents[2]
COPIED = ("tdformer", "pipelines", "cluster", "tests", "benchmarks", "configs", "docs", "examples")
LIMIT = 600
"""Seconds a test, after which it hangs, and has failed."""
OTHERS = (
    *("deepspeed.comm.mori", "deepspeed.module_inject.auto_ep_layer", "deepspeed.runtime.zero.muon.muon_optimizer"),
    *("hypothesis", "matplotlib.pyplot", "numba", "omegaconf", "pytest", "rich.progress"),
    *("scipy.optimize", "scipy.stats", "sklearn.datasets", "torch._dynamo", "typer", "webdataset"),
)
"""What a start of training imports, and most tests; and timm."""
FAILED, PASSED = 1, 0
"""Exit codes of pytest: any other one says nothing about the tests."""


def main(words: list[str]) -> int:
    chosen = [edit for edit in EDITS if not words or any(word in edit.name for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy, log = copied(Path(folder)), Path(folder) / "log"
        prepare()
        verdict = tested(copy, log, {name for edit in chosen for name in edit.tests})
        if verdict != "survived":
            print(log.read_text(), f"without an edit: {verdict}; they must pass", sep="\n")
            return 1
        survivors = 0
        for edit in chosen:
            begun, spent = time.monotonic(), computed()
            verdict = judged(edit, copy, log)
            survivors += verdict != "killed"
            took = f"{time.monotonic() - begun:5.0f} s, {computed() - spent:4.0f} of a core"
            print(f"{verdict:10} {took}  {edit.name}", flush=True)
            if verdict == "broken":
                print(log.read_text())
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return 1 if survivors else 0


def computed() -> float:
    """Seconds that processes which have ended took of the cores."""
    spent = os.times()
    return spent.children_user + spent.children_system


def copied(folder: Path) -> Path:
    """The tree, without what is made by using it."""
    copy = folder / "tree"
    for name in COPIED:
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in TREE.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    return copy


def judged(edit: Edit, copy: Path, log: Path) -> str:
    """killed, survived, not found, or broken: the tests did not run."""
    found = places(copy, edit.old)
    if len(found) != 1:
        return "not found" if not found else "ambiguous"
    path, before = found[0], found[0].read_text()
    path.write_text(before.replace(edit.old, edit.new))
    try:
        return tested(copy, log, edit.tests)
    finally:
        path.write_text(before)


def prepare() -> None:
    """Import what is not ours, before the forks."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in OTHERS:
        import_module(name)
    import_module("pipelines.views.augment").auto_augment()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipelines"]:
        del sys.modules[name]  # each fork has its own, with the edit


def tested(copy: Path, log: Path, names: Iterable[str]) -> str:
    """What these tests say of the copy."""
    tests = sorted(where(copy, name) for name in names)
    child = os.fork()
    if not child:
        inside(copy, log, tests)
    deadline = time.monotonic() + LIMIT * len(tests)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed"
        time.sleep(0.05)
    code = os.waitstatus_to_exitcode(ended[1])
    return {PASSED: "survived", FAILED: "killed"}.get(code, "killed" if code < 0 else "broken")


def inside(copy: Path, log: Path, tests: list[str]) -> None:
    import pytest

    os.setsid()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:] = [
        str(copy),
        *(path for path in sys.path if path and Path(path).resolve() not in (TREE, TREE / "tests")),
    ]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["pytest"]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", f"timeout={LIMIT}", *tests])
    sys.stdout.flush()
    os._exit(int(code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
