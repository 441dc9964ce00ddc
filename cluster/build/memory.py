"""The memory that a process may use: its GPU's, or its share of this machine's, which others may have limited."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from ..config import Config

GIB = 2**30
RESERVE = 0.1
"""The share of the memory left to the allocator's gaps, the libraries and the data loader."""


class Memory(NamedTuple):
    """size: bytes for one process; whose: in words; usable: the share of it that a plan may take."""

    size: float
    whose: str
    usable: float = 1 - RESERVE


def here(config: Config, processes: int) -> Memory:
    """What recompute.memory says, this process's GPU, or the least of what limits `processes` on this machine."""
    if config.recompute.memory is not None:
        return Memory(config.recompute.memory * GIB, "recompute.memory")
    if torch.cuda.is_available():  # whoever exceeds it gets an error and disturbs nobody: a tenth more may be tried
        size = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return Memory(float(size), "the GPU's memory", usable=1.0)
    limits = {
        "this machine's memory": float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        "the control group's memory": cgroup_limit(),
        "the memory that Slurm gives": _slurm_limit(),
    }
    limits = {_shared(whose, processes): size / processes for whose, size in limits.items()}
    limits["what ulimit -v leaves"] = _address_space()
    whose = min(limits, key=limits.__getitem__)
    return Memory(limits[whose], whose)


def asked(config: Config, processes: int, gpus: int) -> Memory | None:
    """The same for nodes that a job asks for; None where nobody has said."""
    if config.recompute.memory is not None:
        return Memory(config.recompute.memory * GIB, "recompute.memory")
    if gpus or config.site.memory_gb is None:
        return None
    return Memory(config.site.memory_gb * GIB / processes, _shared("site.memory_gb", processes))


def cgroup_limit(root: Path = Path("/")) -> float:
    """The least limit of this process's control group and those above it, version 1 or 2; inf where there is none."""
    limits = [float("inf")]
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                mount, name = root / "sys/fs/cgroup", "memory.max"
            elif "memory" in controllers.split(","):
                mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            else:
                continue
            group = PurePosixPath(path.lstrip("/"))
            for folder in (group, *group.parents):
                with suppress(OSError, ValueError):  # no such file: another's view of the tree; `max`: no limit
                    limits.append(float(int((mount / folder / name).read_text())))
    return min(limits)


def _slurm_limit() -> float:
    def number(name: str) -> int:
        value = os.environ.get(name, "")
        return int(value) if value.isdecimal() else 0

    mib = number("SLURM_MEM_PER_NODE") or number("SLURM_MEM_PER_CPU") * number("SLURM_CPUS_ON_NODE")
    return mib * 2**20 or float("inf")  # 0: all there is


def _address_space() -> float:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return float(max(0, limit - taken))


def _shared(whose: str, processes: int) -> str:
    return whose if processes == 1 else f"{whose} shared by {processes} processes"
