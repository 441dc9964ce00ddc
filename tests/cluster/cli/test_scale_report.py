"""`tdformer scale report`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from made_up_study import HOSTILE, rows

from cluster.study.table import from_csv, read, to_csv, without_clock


def test_a_report_is_drawn_by_the_command(cli: Any, tmp_path: Path) -> None:
    """From a CSV alone; what a study's YAML says of its report; and lines for what cannot be."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cells.csv").write_text(to_csv(rows()))
    section = "report:\n  title: Mine\n  figures: [{kind: curve, x: world, y: loss}]\n"
    (tmp_path / "study.yaml").write_text(f"name: s\nconfig: digits\ngrid: {{model.feedback: [none, all]}}\n{section}")
    done = cli("scale", "report", "mine/cells.csv", "--figures", "study.yaml", "--no-clock", "--out", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a/index.html\n", "")
    text = (tmp_path / "a" / "index.html").read_text()
    assert re.findall("<h[12]>(.*?)</h", text) == ["Mine", "Training loss against processes", "Cells"]
    assert read(tmp_path / "a" / "cells.csv") == from_csv(to_csv(without_clock(rows())))
    assert "<script>window" not in text and HOSTILE.partition("window")[2][:10] in text
    for words, line in (
        (["mine/cells.csv", "--figures", "none.yaml"], "none.yaml: no such configuration file"),
        (["mine/none.csv"], "mine/none.csv: cannot be read (No such file or directory)"),
        (["study.yaml"], "study.yaml: no column is called cell"),
        (["mine/cells.csv", "--out", "study.yaml"], "study.yaml is there and no folder"),
    ):
        done = cli("scale", "report", *words)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"error: {line}")
        assert done.stderr.count("\n") == 1
