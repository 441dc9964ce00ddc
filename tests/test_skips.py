"""Under CI=true a skip is a failure, in one process and in xdist's workers, unless the test is marked gpu; and only
those that are see a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
def test_good(): pass
def test_skips(): pytest.skip("something is missing")
@pytest.mark.gpu
def test_skips_without_a_gpu(): pytest.skip("no GPU")
"""
MODULE = """
import pytest
pytest.importorskip("no_such_module")
def test_never(): pass
"""


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("ci", "counts"), [("true", "1 failed, 1 passed, 1 skipped, 1 error"), ("", "1 passed, 3 skip")]
)
def test_skips_fail_in_ci(tmp_path: Path, workers: str, ci: str, counts: str) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-n", workers, "--continue-on-collection-errors"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"CI": ci}, capture_output=True, text=True)
    assert counts in done.stdout, done.stdout
    assert done.returncode == (1 if ci else 0)


@pytest.mark.parametrize(("marks", "seen"), [("", ""), ("not slow", ""), ("gpu", "0"), ("gpu and not slow", "0")])
def test_a_gpu_is_seen_where_its_tests_are_asked_for(tmp_path: Path, marks: str, seen: str) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs one\n    slow: takes long\n")
    program = f"import os, pytest\nassert os.environ['CUDA_VISIBLE_DEVICES'] == {seen!r}\n"
    (tmp_path / "test_some.py").write_text(program + "@pytest.mark.gpu\ndef test_sees(): pass\n")
    words = ["-m", marks, *(["-n", "1"] if "slow" in marks else [])]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert "1 passed" in done.stdout, done.stdout
