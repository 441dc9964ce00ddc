"""What a shell completes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def test_what_a_shell_completes(cli: Any, monkeypatch: pytest.MonkeyPatch):
    def completed(*words: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setenv("_TDFORMER_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(["tdformer", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            return cli().stdout.split()

    assert completed("train", "quick") == ["quickstart"]
    assert completed("train", "quickstart", "train.ep") == ["train.epochs=", "train.eps="]
    assert completed("train", "quickstart", "train.epo") == ["train.epochs=", "train.epochs=1"]
    assert completed("import", "--model", "hst_10_7") == ["hst_10_768"]


def test_a_shell_is_told_how_to_complete():
    """Which shell asks is seen in the processes above the command: here one that this test starts."""
    command = f"{shlex.quote(sys.executable)} -m cluster.cli --show-completion; exit $?"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "_TDFORMER_COMPLETE=complete_bash" in done.stdout
