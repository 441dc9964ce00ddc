"""What GPUs are: peak rates and bandwidths, a table of data (chips.yaml) with its sources."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from ..config.precision import FULL
from ..errors import RunError


@dataclass(frozen=True)
class Chip:
    """One kind of GPU. tflops: dense peak rates in 1e12 operations/s by type; memory_gb: 1e9 bytes; bandwidth: of its
    memory, 1e12 bytes/s; link: to the others of its node, 1e9 bytes/s in one direction."""

    name: str
    words: tuple[str, ...]
    tflops: dict[str, float]
    memory_gb: float
    bandwidth: float
    link: float
    source: str

    def peak(self, precision: str, tf32: bool = False) -> float | None:
        """Operations/s of matrix products under `train.precision` and `train.tf32`; None: it has no such type."""
        rate = self.tflops.get("tf32" if precision == FULL.name and tf32 else precision)
        return None if rate is None else rate * 1e12


@cache
def chips() -> dict[str, Chip]:
    """All of the table, by name."""
    rows = yaml.safe_load(Path(__file__).with_name("chips.yaml").read_text())
    return {row["name"]: Chip(**row | {"words": tuple(row["words"])}) for row in rows}


def chip(name: str) -> Chip:
    """By its name in the table. Raises RunError with the nearest one."""
    known = chips()
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), known, 1)
    raise RunError(
        f"no GPU is called {name!r}; " + (f"did you mean {near[0]}? " if near else "") + f"Known: {', '.join(known)}"
    )


def recognised(device: str) -> Chip | None:
    """That of a name as torch gives it ("NVIDIA H100 80GB HBM3"); None: it is not in the table."""
    return next((one for one in chips().values() if all(word in device for word in one.words)), None)
