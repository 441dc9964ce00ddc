"""What `import cluster` offers, and what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cluster


def test_every_name_is_there() -> None:
    for name in cluster.__all__:
        assert getattr(cluster, name) is not None
    with pytest.raises(AttributeError, match="module 'cluster' has no attribute 'nothing'"):
        cluster.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(cluster.__file__).read_text())
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert {name.name for line in lines for name in line.names} == set(cluster.__all__)


def test_only_what_is_asked_for_is_imported() -> None:
    program = "import sys, cluster; cluster.Config; cluster.RunFolder; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
