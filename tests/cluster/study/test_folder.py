"""The folder of a study."""

from __future__ import annotations

from pathlib import Path

from cluster.study.folder import StudyFolder


def test_cells_come_by_the_size_of_their_numbers(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    names = ["T=4,lr=0.05-9a", "T=4,lr=0.4-1b", "T=16,lr=0.05-10c", "seed=2024-00ff", "seed=3407-9", "seed=114514-1"]
    for name in reversed(names):
        (tmp_path / "cells" / name).mkdir(parents=True)
        (tmp_path / "cells" / name / "cell.json").write_text("{}")
    assert [cell.path.name for cell in study.cells] == names
