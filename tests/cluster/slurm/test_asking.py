"""The states of a job."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from stand_in_slurm import STATES


def test_the_states_are_those_of_the_manual() -> None:
    manual, page = Path("/usr/share/man/man1/squeue.1.gz"), Path(__file__).parents[3] / "docs" / "cluster.md"
    assert all(f"`{word}`" in page.read_text() for code, word, *_ in STATES if code)
    if not manual.exists():
        pytest.skip("needs Slurm's manual")
    codes = gzip.decompress(manual.read_bytes()).decode().partition('.SH "JOB STATE CODES"')[2].partition("\n.SH")[0]
    named = re.findall(r"^\\fB([A-Z]+) +([A-Z_]+)\\fR$", codes, re.MULTILINE)
    assert sorted(named) == sorted((code, word) for code, word, *_ in STATES if code)
