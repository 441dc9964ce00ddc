"""The `tdformer` command as a user starts it, and the line of one that refuses what it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT, python_path


def user_command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own. The first use of a command on a run begins one; others are forked
    (`forked.Command`)."""
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    command = [sys.executable, "-m", "cluster.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that refused what it was given."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
