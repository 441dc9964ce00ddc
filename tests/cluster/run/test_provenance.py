"""What is noted of each start."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.run.provenance import revision


def test_the_revision_is_that_of_the_code() -> None:
    root = Path(__file__).parents[3]
    head = subprocess.run(["git", "-C", root, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    changes = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True)
    assert revision() == {
        "commit": head.stdout.strip() if head.returncode == 0 else None,
        "dirty": bool(changes.stdout) if changes.returncode == 0 else None,
    }
