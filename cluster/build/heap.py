"""The C library's heap: a step frees its tensors, and the next one makes others of the same sizes."""

from __future__ import annotations

import ctypes
import os

TRIM, MMAP = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h."""
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """Let this process keep what it frees: else glibc gives memory back after each step, and the kernel fills it with
    zeros again for the next one (benchmarks/results/heap.md). The peak is what it was. Does nothing where the
    environment says how, or without glibc."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None or any(name in os.environ for name in NAMES):
        return
    set_option(MMAP, 2**30)
    set_option(TRIM, 2**31 - 1)
