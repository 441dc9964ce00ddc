"""Where an optional package is missing its own tests are skipped, and the suite loses no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from forked import Command

TESTS = Path(__file__).parent
PROGRAM = """
import sys
import pytest
sys.modules[sys.argv[1]] = None
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider"]))
"""


FFCV = {f"tests/pipelines/store/test_{name}.py" for name in ("beton", "beton_writer", "ffcv_adapter")}


@pytest.mark.parametrize(("package", "its_own"), [("ffcv", FFCV)])
def test_the_suite_is_collected_without(package: str, its_own: set[str]) -> None:
    env = {"PATH": "/usr/bin:/bin"}  # without CI, where a skip is a failure
    files = {path.relative_to(TESTS.parent).as_posix() for path in TESTS.rglob("test_*.py")}
    done = Command(package, cwd=TESTS.parent, env=env, program=PROGRAM).completed(timeout=280)
    assert done.returncode == 0, done.stdout[-2000:]
    found = set(re.findall(r"^(\S+\.py)::", done.stdout, re.MULTILINE))
    assert files - its_own <= found and not found & its_own
