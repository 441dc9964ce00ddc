"""Fig. 3 drawn from runs: what is counted, what the caption says of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunError


def test_fig_3_counts_each_neuron_once_and_the_clamp_makes_a_difference(
    tmp_path: Path, drawn: Callable[..., Any]
) -> None:
    rows, page = drawn("3", ["run"], tmp_path, "images=6")
    counts: dict[tuple[str, str], int] = {}
    means: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["of"], row["clamp"]
        if row["count"]:
            counts[key] = counts.get(key, 0) + int(row["count"])
        else:
            means[key] = float(row["mean"])
    every, some = "all neurons and steps", "those that a spike drives"
    assert counts[every, "true"] == counts[every, "false"] == 6 * 96  # images, H_n of 96 x 1 x 1, one step
    assert 0 < counts[some, "true"] == counts[some, "false"] < counts[every, "true"]
    assert means[some, "true"] != means[some, "false"]
    assert (
        f"the mean gradient is {means[some, 'true']:.3f} with the clamp and {means[some, 'false']:.3f} without" in page
    )
    with pytest.raises(RunError, match="figure 3: off has no processing module with a core"):
        drawn("3", ["run", "off"], tmp_path)
