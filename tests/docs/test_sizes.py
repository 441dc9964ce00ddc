"""The table of large sizes in docs/model.md is what the planner says."""

from __future__ import annotations

import runpy

from blocks import ROOT

PAGE = runpy.run_path(str(ROOT / ".ci" / "docs" / "sizes.py"))


def test_the_page_is_what_the_planner_says() -> None:
    table = PAGE["table"]()
    assert f"\n{table}\n" == PAGE["TABLE"].search(PAGE["PAGE"].read_text())[0], "python .ci/docs/sizes.py"
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]
    counts = [int(row[2].replace(",", "")) for row in rows]
    assert counts == sorted(counts) and counts[0] < 10**8 < 5 * 10**8 < counts[3] < counts[-1] < 2 * 10**9
    for row, count in zip(rows, counts, strict=True):
        whole, sharded = float(row[4]), float(row[7])
        assert whole > 15 * count / 2**30  # weights, gradients and two moments of 4 bytes, but for rounding
        assert sharded < 0.6 * whole
