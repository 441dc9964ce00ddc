"""When two run folders hold the same run: metrics, every tensor of the newest checkpoint, and the state, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.run import checkpoint
from cluster.run.folder import RunFolder


def result(runs: Path) -> tuple[bytes, dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    folder = RunFolder(runs / "run")
    found = checkpoint.newest_good(folder.checkpoints, pytest.fail)
    assert found is not None
    parts, state = checkpoint.load(found)
    return folder.metrics.path.read_bytes(), parts, state["state"]


def assert_equal(one: Path, other: Path) -> None:
    (metrics, parts, state), (metrics2, parts2, state2) = result(one), result(other)
    assert metrics == metrics2
    assert state == state2
    assert parts.keys() == parts2.keys() == {"model", "optimizer", "ema"}
    for part, tensors in parts.items():
        assert tensors.keys() == parts2[part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, parts2[part][name]), f"{part} {name}"
