"""What memory a process may have: its machine's, a limit's or a control group's."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.build import memory
from cluster.config import load

GIB = 2**30


def test_the_least_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    config = load()
    alone, shared = memory.here(config, 1), memory.here(config, 2)
    assert 0 < shared.size == alone.size / 2 and shared.whose == f"{alone.whose} shared by 2 processes"
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    assert memory.here(config, 2) == (200 * 2**20, "the memory that Slurm gives shared by 2 processes", 0.9)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    assert memory.here(config, 1) == (300 * 2**20, "the memory that Slurm gives", 0.9)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of it
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "much")
    assert memory.here(config, 1) == alone
    assert memory.here(load(None, ["recompute.memory=3"]), 2).size == 3 * GIB
    assert memory.asked(load(None, ["site.memory_gb=3"]), 2, 0) == (
        1.5 * GIB,
        "site.memory_gb shared by 2 processes",
        0.9,
    )
    assert memory.asked(load(None, ["site.memory_gb=3"]), 1, 1) is None  # a GPU's own is not known here
    assert memory.asked(config, 1, 0) is None


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "3000", "memory.max": "max"}, 3000),
        ("0::/a/b", {"a/b/memory.max": "2000\n", "a/memory.max": "3000"}, 2000),
        ("0::/a/b", {"memory.max": "4000"}, 4000),  # a container sees its own group at the root
        ("0::/../x", {"memory.max": "5000"}, 5000),
        ("0::/a/b", {}, float("inf")),
        ("5:cpu,memory:/j\n2:cpu:/k\n0::/", {"memory/j/memory.limit_in_bytes": "6000"}, 6000),
        ("5:memory:/j", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 9223372036854771712),
        ("nonsense", {"memory.max": "1"}, float("inf")),
        (None, {"memory.max": "1"}, float("inf")),
    ],
)
def test_a_control_group_limits(tmp_path: Path, groups: str | None, files: dict[str, str], limit: float) -> None:
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert memory.cgroup_limit(tmp_path) == limit
