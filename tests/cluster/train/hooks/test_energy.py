"""The column `energy_mj`: that of all ranks' images of a step, and of the table of a study."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import Command

from cluster.run.folder import RunFolder
from cluster.study.folder import CellFolder
from cluster.study.rows import _learned

RECIPE = """\
model: {name: quickstart, time_steps: 2, segments: 2, feedback: all}
data: {dataset: digits, root: SHARDS}
train: {epochs: 1, global_batch: 10, norm_batch: 5, threads: 1, hooks: [energy]}
log: {curves: false, every_steps: 1}
"""


def test_it_is_of_the_whole_step_and_of_the_studys_table(tmp_path: Path, few_digits: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("SHARDS", str(few_digits)))
    rows = []
    for processes in (1, 2):
        words = "train", "recipe.yaml", f"name=on_{processes}", "--processes", processes
        done = Command(*words, cwd=tmp_path).completed(280)
        assert done.returncode == 0, done.stderr
        told = RunFolder(tmp_path / "runs" / f"on_{processes}").metrics.read()
        rows.append([row for row in told if "loss" in row])
    alone, shared = rows
    assert len(alone) == 7 and all(row["energy_mj"] > 0 for row in alone)
    assert alone[0]["energy_mj"] == pytest.approx(shared[0]["energy_mj"], rel=1e-9)
    cell = CellFolder(tmp_path / "runs" / "on_1")
    assert _learned(cell, {"steps": 7, "images": 70})["energy_mj"] == alone[-1]["energy_mj"]
