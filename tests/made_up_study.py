"""Rows of a study that nobody ran, for tests of what is drawn: simple numbers, so that figures can be reckoned."""

from __future__ import annotations

from typing import Any

from cluster.study.figures.base import Cells, Plot, figure

HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
"""As a cell, a title and a text: none of it may become a part of a page."""


def cell(feedback: str, processes: int, seed: int) -> dict[str, Any]:
    """A step takes 2 / processes^0.9 s, with feedback 10 % more, and 1 % more for each seed."""
    seconds = 2 / processes**0.9 * (1.1 if feedback == "all" else 1.0) * (1 + seed / 100)
    return {
        "cell": f"{feedback}-{processes}-{seed}",
        "digest": "d",
        "state": "finished",
        "simulated": False,
        "revision": "c0ffee",
        "machine": "a machine",
        "date": "2026-01-02",
        "axis.model.feedback": feedback,
        "axis.processes": processes,
        "axis.seed": seed,
        "world": processes,
        "parameters": 123456,
        "flop_image": 3.2e9,
        "images_second": 64 / seconds,
        "seconds_step": seconds,
        "seconds_step_low": 0.9 * seconds,
        "seconds_step_high": 1.2 * seconds,
        "seconds.data": 0.1 * seconds,
        "seconds.compute": 0.8 * seconds,
        "seconds.other": 0.1 * seconds,
        "peak_gib": 0.5 + 0.1 * processes,
        "gpu_hours": 0.5,
        "good": 0.8,
        "bad.start": 0.15,
        "bad.data": 0.05,
        "bad.queue": 0.0,
        "accuracy": 0.8 + (0.02 + seed / 1000 if feedback == "all" else 0.0) + seed / 100,
        "loss": 0.5,
        "predicted.seconds_step": 1.05 * seconds,
        "predicted.seconds.compute": seconds,
        "predicted.peak_gib": 0.4 + 0.1 * processes,
        "predicted.gib.weights": 0.2,
        "predicted.gib.activations": 0.2 + 0.1 * processes,
    }


def rows() -> list[dict[str, Any]]:
    """2 x 3 cells with 3 seeds, 2 that are simulated, and one that failed and has a hostile name."""
    found = [cell(feedback, n, seed) for feedback in ("none", "all") for n in (1, 2, 4) for seed in (0, 1, 2)]
    for n in (8, 16):
        one = cell("all", n, 0)
        kept = ("digest", "axis.model.feedback", "axis.processes", "axis.seed", "world", "parameters", "images_second")
        found.append({key: one[key] for key in kept} | {"cell": f"sim-{n}", "state": "waiting", "simulated": True})
    failed = {"axis.model.feedback": "none", "axis.processes": 1, "axis.seed": 9, "world": 1, "loss": 9.0}
    return [*found, {"cell": HOSTILE, "state": "failed", **failed}]


def fits() -> list[dict[str, Any]]:
    """As `Fit.as_json()` has them: one, and one that had too few cells."""
    points = [
        {
            "cell": f"none-{n}-0",
            "x": float(n),
            "measured": 2.02 / n,
            "fitted": 2.0 / n,
            "held_out": n == 4,
            "group": None,
        }
        for n in (1, 2, 4)
    ]
    curve = [{"x": x, "y": 2 / x, "low": 1.9 / x, "high": 2.1 / x} for x in (1.0, 2.0, 3.0, 4.0)]
    power = {
        "name": "power",
        "x": ["world"],
        "y": "loss",
        "formula": "y = a x^-b",
        "parameters": {"a": {"value": 2.0, "low": 1.9, "high": 2.1}},
    }
    few = {"name": "few", "formula": "", "parameters": {}, "points": [], "residual": None, "held_out": None}
    return [
        {**power, "points": points, "residual": 0.01, "held_out": 0.01, "note": None, "curve": curve},
        {**few, "note": "not enough cells: 3, at least 6 are needed"},
    ]


def drawn(spec: dict[str, Any], of: list[dict[str, Any]] | None = None) -> Plot:
    one = figure(spec, "report.figures[0]")
    found = one.draw(Cells(rows() if of is None else of, fits()).where(one.where))
    assert isinstance(found, Plot)
    return found


def traces(plot: Plot, name: str, **also: Any) -> list[dict[str, Any]]:
    return [one for one in plot.traces if one.get("name") == name and all(one.get(k) == v for k, v in also.items())]
