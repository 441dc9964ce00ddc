"""docs/extrapolation.md and benchmarks/results/extrapolate.md: their figures are what the program says."""

from __future__ import annotations

import pytest

from benchmarks import extrapolate


def test_the_figures_are_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    extrapolate.main([])
    said = capsys.readouterr().out
    assert extrapolate.RESULT.read_text().endswith(said), "python -m benchmarks.extrapolate --write"
    assert len(extrapolate.tables(said)) == 4
    assert extrapolate.tables(extrapolate.PAGE.read_text()) == extrapolate.tables(said)


def test_what_the_page_says_of_them() -> None:
    """In words, of the hours on 8 and 64 GPUs."""

    def told(gpus: int, images: int, *parts: tuple[extrapolate.Network, int]) -> tuple[float, float]:
        lines = [extrapolate.extrapolated(network, epochs, gpus, images).curve[0] for network, epochs in parts]
        return sum(line["hours"] for line in lines), sum(line["gpu_hours"] for line in lines)

    (node, cost), (few, dear), (many, _) = (
        told(*way, (extrapolate.T4, 200)) for way in ((8, 576), (64, 576), (64, 4608))
    )
    assert node / 24 == pytest.approx(1.7, abs=0.05)
    assert few < node / 2 and dear / cost == pytest.approx(3, abs=0.5) and many == pytest.approx(node / 8, rel=0.03)
    short, _ = told(8, 576, (extrapolate.T1, 200), (extrapolate.FED, 50))
    assert short / node == pytest.approx(0.75, abs=0.05)
