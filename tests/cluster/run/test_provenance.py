"""What is noted of each start."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster.config import BatchPlan, load
from cluster.run.provenance import changes, revision
from cluster.run.surroundings import surroundings
from tdformer import kernels


def test_the_revision_is_that_of_the_code() -> None:
    root = Path(__file__).parents[3]
    head = subprocess.run(["git", "-C", root, "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    changes = subprocess.run(["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True)
    assert revision() == {
        "commit": head.stdout.strip() if head.returncode == 0 else None,
        "dirty": bool(changes.stdout) if changes.returncode == 0 else None,
    }


def test_kernels_of_another_arithmetic_are_told() -> None:
    """A run that was begun when BatchNorm's affine part was rounded twice: its start noted no number."""
    config = load("digits", [])
    now = surroundings(config, BatchPlan(8, 1, 8, 1, 8, 1), 1)
    name, number = now["kernels"].split()
    assert int(number) == kernels.ARITHMETIC == 2
    assert changes(Path("runs/a"), now, now, config) == []
    (line,) = changes(Path("runs/a"), now | {"kernels": name}, now, config)
    assert f"otherwise: kernels ({name}, now {name} 2); from here on the last bits" in line
