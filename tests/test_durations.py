"""`make check` leaves out what was measured to be slow, and nothing else; `--measure` measures it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import time
import pytest
@pytest.mark.parametrize("seconds", [0.3, 0.8])
def test_sleeps(seconds): time.sleep(seconds)
def test_quick(): pass
class TestGroup:
    def test_new(self): pass
"""


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the conftest of this one, and tests of which none was measured."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs one\n    slow: takes long\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    return tmp_path


def test_what_was_measured_decides_what_is_left_out(folder: Path) -> None:
    measured, workers = folder / "durations.txt", "2"
    assert "4 passed" in run(folder, "-n", workers, "--measure")
    seconds, name = measured.read_text().split()  # both parameters of one function together
    assert float(seconds) >= 1.1 and name == "test_some.py::test_sleeps"
    assert "2 passed" in run(folder, "-n", workers, "-m", "not slow")


def test_what_was_not_is_left_out_where_it_starts_processes(folder: Path) -> None:
    measured = folder / "durations.txt"
    assert "4 passed" in run(folder, "-m", "not slow") and not measured.exists()
    measured.write_text("5.0 test_some.py::test_sleeps\n0.9 test_some.py::test_quick\n")
    assert "2 passed" in run(folder, "-m", "not slow")
    (folder / "test_starts.py").write_text("import subprocess\ndef test_command(): pass\n")
    assert "2 passed" in run(folder, "-m", "not slow")
    measured.write_text("0.5 test_starts.py::test_command\n")  # it is known to be quick
    assert "5 passed" in run(folder, "-m", "not slow")
