"""The heap keeps what a step frees, unless somebody has said otherwise."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import pytest
import torch
from forked import apart

from cluster.build import heap

SIZE = 2**24
"""Floats: 64 MiB, more than glibc keeps by itself."""


def stays() -> float:
    """The share of a tensor's bytes that is still resident when it is freed."""
    before = resident()
    torch.ones(SIZE)
    return (resident() - before) / (4 * SIZE)


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def kept() -> None:
    heap.keep_freed()
    assert stays() > 0.9


def as_it_was(name: str) -> None:
    os.environ[name] = ""
    heap.keep_freed()
    assert stays() < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_what_is_freed_is_kept() -> None:
    apart(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
@pytest.mark.parametrize("name", heap.NAMES)
def test_the_environment_says_otherwise(name: str) -> None:
    apart(as_it_was, name)
