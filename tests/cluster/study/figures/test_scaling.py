"""Efficiency: rates and times against the fewest processes."""

from __future__ import annotations

import pytest
from made_up_study import cell, drawn, traces


def test_efficiency_is_against_the_fewest_processes() -> None:
    plot = drawn({"kind": "efficiency"})
    [rate, share] = traces(plot, "feedback none")
    seconds = [2 * (1 + seed / 100) for seed in range(3)]
    first = sum(64 / s for s in seconds) / 3
    assert rate["x"] == [1, 2, 4] and rate["y"] == pytest.approx([first * n**0.9 for n in (1, 2, 4)])
    assert rate["error_y"]["array"][0] == pytest.approx(64 / seconds[0] - first)
    assert rate["error_y"]["arrayminus"][0] == pytest.approx(first - 64 / seconds[2])
    assert share["y"] == pytest.approx([100 * n**-0.1 for n in (1, 2, 4)])
    [ideal, *_] = traces(plot, "ideal")
    assert ideal["y"] == pytest.approx([first * n for n in (1, 2, 4)])
    [modelled, efficient] = traces(plot, "feedback all (simulated)")
    assert modelled["marker"]["symbol"].endswith("-open") and efficient["x"] == [8, 16]
    assert not traces(plot, "feedback all")[0]["marker"]["symbol"].endswith("-open")
    base = sum(64 / (s * 1.1) for s in seconds) / 3  # measured: the series' ideal, also where it is simulated
    assert efficient["y"] == pytest.approx([100 * (64 / 2.2 * n**0.9) / (base * n) for n in (8, 16)])


@pytest.mark.parametrize("scaling", ["strong", "weak"])
def test_efficiency_of_a_time_has_its_quartiles(scaling: str) -> None:
    of = [cell("none", n, 0) for n in (1, 2, 4)]
    [time, share] = traces(drawn({"kind": "efficiency", "y": "seconds_step", "scaling": scaling}, of), "measured")
    assert time["error_y"]["arrayminus"] == pytest.approx([0.1 * s for s in time["y"]])
    assert time["error_y"]["array"] == pytest.approx([0.2 * s for s in time["y"]])
    wanted = [100 * n ** (-0.1 if scaling == "strong" else 0.9) for n in (1, 2, 4)]
    assert share["y"] == pytest.approx(wanted)
    assert share["error_y"]["array"] == pytest.approx([y / 0.9 - y for y in wanted])
