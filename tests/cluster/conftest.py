"""Real processes for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
from forked import Command

from benchmarks import ROOT, python_path

Run = Callable[..., subprocess.CompletedProcess[str]]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": python_path(ROOT), "COLUMNS": "200"}


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """Run the `tdformer` command in an empty folder, forked."""

    def run(*words: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return Command(*words, cwd=tmp_path, env=_environment()).completed(timeout)

    return run


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program in its own process; it is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *words: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, words)],
            cwd=tmp_path,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Browser]:
    """Started once: it takes longer than its pages do."""
    with browser.browser() as running:
        yield running


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Run:
    """Run a Python program whose folder `disk` is a file system of its own with room for 256 kB."""
    (tmp_path / "disk").mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = "mount -t tmpfs -o size=256k,nr_inodes=64 none disk"
    inside = ["unshare", "--mount", *user, "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("a full disk needs the right to mount a tmpfs (root, or user namespaces)")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*inside, sys.executable, *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=120)

    return run
