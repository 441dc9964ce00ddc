"""Each claim of speed, memory or accuracy, as something that anyone can run."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path

import torch


def machine() -> str:
    """Where and when a table was measured, in one line."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{date.today()}, {name}, {torch.get_num_threads()} threads{gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
