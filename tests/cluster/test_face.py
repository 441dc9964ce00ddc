"""What `import cluster` and `import tdformer` offer, and what they cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from made_up_study import rows

import cluster
import tdformer
from cluster.study.table import to_csv

FACES = pytest.mark.parametrize("face", [cluster, tdformer], ids=lambda face: face.__name__)


@FACES
def test_every_name_is_there(face: ModuleType) -> None:
    for name in face.__all__:
        assert getattr(face, name) is not None
    assert dir(face) == sorted(face.__all__)
    with pytest.raises(AttributeError, match=f"module '{face.__name__}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018


@FACES
def test_type_checkers_see_the_same_names(face: ModuleType) -> None:
    tree = ast.parse(Path(str(face.__file__)).read_text())
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    assert {name.name for line in lines for name in line.names} == set(face.__all__)


def printed(program: str, folder: Path) -> str:
    root = str(Path(cluster.__file__).parents[1])
    command = [sys.executable, "-c", program, root]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_only_what_is_asked_for_is_imported(tmp_path: Path) -> None:
    names = "cluster.Config; cluster.RunFolder; tdformer.ModelError"
    program = (
        f"import sys; sys.path.insert(0, sys.argv[1]); import cluster, tdformer; {names}; print('torch' in sys.modules)"
    )
    assert printed(program, tmp_path).strip() == "False"


REPORT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from cluster.cli.scale_report import report
report(Path("cells.csv"))
print("torch" in sys.modules)
"""


def test_a_report_without_fits_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text(to_csv(rows()))
    assert printed(REPORT, tmp_path).splitlines()[-1] == "False"
    assert (tmp_path / "report" / "index.html").is_file()
