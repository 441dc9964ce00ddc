"""What is noted of each start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import BatchPlan, load
from cluster.run.provenance import changes, revision
from cluster.run.surroundings import surroundings
from tdformer import kernels


def test_the_revision_is_that_of_the_code(tmp_path: Path) -> None:
    """A page that was changed is no other code, a package's file or a recipe is."""
    root = Path(__file__).parents[3]
    files = ["cluster/__init__.py", "cluster/errors.py", "cluster/signals.py", "cluster/config", "cluster/run"]
    for name in (*files, "cluster/slurm", "pipelines", "tdformer", "configs"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(root / name, tmp_path / name)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")

    def git(*words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def said() -> dict[str, object]:
        program = "import json; from cluster.run.provenance import revision; print(json.dumps(revision()))"
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "code")
    (tmp_path / "README.md").write_text("A page\n")
    head = git("rev-parse", "HEAD")
    assert said() == {"commit": head, "dirty": False}
    for name in ("cluster/errors.py", "configs/digits.yaml"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(before + "# more\n")
        assert said() == {"commit": head, "dirty": True}, name
        (tmp_path / name).write_text(before)
    assert revision().keys() == {"commit", "dirty"}


def test_kernels_of_another_arithmetic_are_told() -> None:
    """A run that was begun when BatchNorm's affine part was rounded twice: its start noted no number."""
    config = load("digits", [])
    now = surroundings(config, BatchPlan(8, 1, 8, 1, 8, 1), 1)
    name, number = now["kernels"].split()
    assert int(number) == kernels.ARITHMETIC["cpu"] == 3
    assert changes(Path("runs/a"), now, now, config) == []
    (line,) = changes(Path("runs/a"), now | {"kernels": name}, now, config)
    assert f"otherwise: kernels ({name}, now {name} {number}); from here on the last bits" in line


@pytest.mark.parametrize("ranks", [1, 2])
def test_statistics_over_ranks_that_were_gathered_are_told(ranks: int) -> None:
    """Of a run whose start noted no such number; where they lie on one rank nothing has changed."""
    config = load("digits", [])
    now = surroundings(config, BatchPlan(8, 2, 4, 1, 4 * ranks, ranks), 1)
    before = {key: value for key, value in now.items() if key != "norm_ranks"}
    assert changes(Path("runs/a"), now, now, config) == []
    told = changes(Path("runs/a"), before, now, config)
    assert len(told) == (ranks > 1) and all("summed in fp64 from here on" in line for line in told)
