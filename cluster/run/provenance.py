"""Where a run's numbers come from: the code's revision, the machine and the libraries of each start."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..config import Config, show
from .kept import Revision
from .records import record

PACKAGES = ("tdformer", "pipelines", "cluster")
"""The folders of the code that runs; of these cluster/recipes is a link to configs."""
REVISION = "revision.json"
"""In a snapshot of the code: what `revision` said where it was taken."""


def revision() -> Revision:
    """The commit of the code that runs, and whether the packages' files differ from it (a page that does is no other
    code); None where it is not in git."""
    here = Path(__file__).resolve().parents[2]
    if (here / REVISION).exists():  # a snapshot, which knows what it was taken from
        return record(here / REVISION, "launch the run again", Revision, "commit", "dirty") or {}

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(here), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "--verify", "HEAD"), git("status", "--porcelain", "--", *PACKAGES, "configs")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def this_start() -> dict[str, object]:
    """A row of starts.jsonl, without the surroundings."""
    from .surroundings import version  # imports torch, which `tdformer status` does without

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": sys.argv,
        **revision(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "deepspeed", "numpy")},
    }


def changes(run: Path, before: Mapping[str, object], now: Mapping[str, object], config: Config) -> list[str]:
    """Lines that say what is not as it was at the start before; `before` is {} where there was none."""
    lines = []
    if "device" not in before and now["device"] != "CPU":
        lines.append(
            f"{run} was begun by an earlier version, which on a GPU took TF32 for fp32's convolutions and "
            f"summed in any order; it goes on with train.tf32={show(config.train.tf32)} and "
            f"engine.deterministic={show(config.engine.deterministic)}"
        )
    if "norm_ranks" not in before and now.get("norm_ranks", 1) != 1:
        lines.append(
            f"{run} was begun by an earlier version, which gathered a norm batch's statistics over ranks in fp32; they "
            "are summed in fp64 from here on, so last bits of its numbers can differ"
        )
    if other := [f"{k} ({show(before[k])}, now {show(now[k])})" for k in now if before.get(k, now[k]) != now[k]]:
        lines.append(
            f"{run} goes on elsewhere, or otherwise: {', '.join(other)}; from here on the last bits of its "
            "numbers can differ from those of a run without this change"
        )
    return lines
