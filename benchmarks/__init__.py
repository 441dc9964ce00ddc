"""Each claim of speed, memory or accuracy, as something that anyone can run."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Where and when a table was measured, in one line."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{date.today()}, {name}, {torch.get_num_threads()} threads{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def python_path(*folders: Path) -> str:
    """PYTHONPATH for a process that takes code from these folders first: what ours has stays behind them, for packages
    may be there that are installed nowhere else."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
