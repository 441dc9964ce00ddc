"""The study of feedback on docs/reproduction.md, from a table that is made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blocks import script
from scipy import stats

from benchmarks import feedback
from cluster.study.table import Row, to_csv

PAGE = script("reproduction")
SEEDS = [0, 42, 2024, 3407, 114514]
OFF = np.array([0.80, 0.81, 0.79, 0.82, 0.80])
GAINS = {
    ("spikformer_2_256", "concat"): np.array([0.02, 0.03, 0.02, 0.025, 0.03]),
    ("spikformer_2_256", "processing"): np.array([0.01, -0.01, 0.005, 0.0, -0.004]),
    ("sdt_2_256", "concat"): np.array([-0.01, -0.02, -0.015, -0.03, -0.002]),
}


def cells() -> list[Row]:
    """Two backbones; the second has no cells of one case."""
    found: list[Row] = []
    for name in ("spikformer_2_256", "sdt_2_256"):
        for case in ("off", "concat", "processing"):
            if case == "off" or (name, case) in GAINS:
                accuracy = OFF + GAINS.get((name, case), 0.0)
                found += [
                    {"cell": f"{name}-{case}-{seed}", "state": "finished", "revision": "abc", "date": "2026-11-28"}
                    | {"machine": "1 x CPU", "axis.case": case, "axis.model.name": name, "axis.seed": seed}
                    | {"images": 135_000, "parameters": 123_456, "accuracy": float(value)}
                    for seed, value in zip(SEEDS, accuracy, strict=True)
                ]
    return found


def shown(page: str) -> list[list[str]]:
    return [line[2:-2].split(" | ") for line in page.splitlines() if line.startswith("| ")]


def test_the_page_shows_means_differences_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "CELLS", tmp_path / "cells.csv")
    assert "The study `feedback` was not run" in PAGE.feedback()
    rows = cells()
    rows.append(rows[0] | {"cell": "running", "state": "running", "axis.seed": 7, "accuracy": 0.1})  # not of it yet
    rows.sort(key=lambda row: str(row["cell"]).replace("concat", "a"))  # as a report has them: by name
    (tmp_path / "cells.csv").write_text(to_csv(rows))
    page = PAGE.feedback()
    head, _, *lines = shown(page)
    assert head == feedback.HEAD and "25 of 26 cells" in page and "135,000 images; 2026-11-28; 1 x CPU; abc." in page
    assert [line[:3] for line in lines] == [
        ["sdt_2_256", "0.123", "none"],
        ["sdt_2_256", "0.123", "(a) concat"],
        ["spikformer_2_256", "0.123", "none"],
        ["spikformer_2_256", "0.123", "(a) concat"],
        ["spikformer_2_256", "0.123", "(b) processing"],
    ]
    assert lines[0][3:5] == ["5", f"{100 * OFF.mean():.2f} ± {100 * OFF.std(ddof=1):.2f}"]
    p = {key: stats.ttest_rel(OFF + gain, OFF).pvalue for key, gain in GAINS.items()}
    order, least = sorted(p, key=lambda key: p[key]), 0.0
    for place, key in enumerate(order):
        least = max(least, min(1.0, (3 - place) * p[key]))
        gain = GAINS[key]
        [line] = [line for line in lines if line[0] == key[0] and line[2].endswith(key[1])]
        assert line[5].startswith(f"{100 * gain.mean():+.2f} (")
        assert line[6:] == [f"{p[key]:.2g}", f"{least:.2g}", f"{gain.mean() / gain.std(ddof=1):+.2f}"]
    assert [line[5:] for line in lines if line[2] == "none"] == [["", "", "", ""]] * 2


def test_too_few_pairs_are_shown_without_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in cells() if row["axis.seed"] in SEEDS[:2] and row["axis.case"] != "processing"]
    assert [line[3:] for line in feedback.lines(rows)][1] == ["2", "83.00 ± 1.41", "", "", "", ""]


def test_the_control_is_a_base_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in cells() if row["axis.model.name"] == "spikformer_2_256"]
    lower = 0.05
    rows += [
        row | {"cell": "control", "axis.case": "control", "accuracy": row["accuracy"] - lower}
        for row in rows
        if row["axis.case"] == "off"
    ]
    monkeypatch.setattr(feedback, "CELLS", tmp_path / "cells.csv")
    (tmp_path / "cells.csv").write_text(to_csv(rows))
    page = PAGE.feedback()
    off, control = (shown(part) for part in page.split("beside the control"))
    assert [line[2] for line in off[2:]] == ["none", "none, two segments", "(a) concat", "(b) processing"]
    assert [line[2] for line in control[2:]] == ["none, two segments", "(a) concat", "(b) processing"]
    gain = 100 * (GAINS["spikformer_2_256", "concat"].mean() + lower)
    assert off[3][5].startswith("-5.00") and control[2][5] == "" and control[3][5].startswith(f"{gain:+.2f}")
