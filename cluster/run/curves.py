"""curves.png: what a run has measured, drawn against its steps and epochs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

KEPT = 0.9
"""The weight of a row in a smoothed line, against the row after it."""
PLOTS = {
    "loss": "loss",
    "accuracy": "accuracy (%)",
    "images_per_second": "images/s",
    "lr": "learning rate",
    "firing_rate": "firing rate",
    "grad_norm": "norm of the gradient",
}
"""Keys of rows, and what their axis says."""


def draw(rows: Iterable[Mapping[str, object]], title: str, epoch_steps: float) -> bytes:
    """A PNG of rows of metrics.jsonl and speed.jsonl: as measured, a smoothed line over it, and the test set's points.

    epoch_steps: optimizer steps of an epoch, for the axis above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    figure = Figure(figsize=(14, 7))
    # Layouts that matplotlib finds by itself take half as long again.
    figure.subplots_adjust(0.06, 0.07, 0.985, 0.89, wspace=0.3, hspace=0.12)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, sharex=True)
    for axis, (key, label) in zip(axes.flatten(), PLOTS.items(), strict=True):
        steps, values = _points(rows, key)
        if steps:
            axis.plot(steps, values, color="tab:blue", alpha=0.3)
            axis.plot(steps, smoothed(values), color="tab:blue", label="training, smoothed")
        steps, values = _points(rows, f"eval_{key}")
        if steps:
            axis.plot(steps, values, "o-", color="tab:orange", markersize=4, label="test")
            axis.legend()
        axis.set(ylabel=label)
        axis.grid(alpha=0.3)
    for axis in axes[0]:
        above = axis.secondary_xaxis("top", functions=(lambda x: x / epoch_steps, lambda x: x * epoch_steps))
        above.set(xlabel="epoch")
    for axis in axes[1]:
        axis.set(xlabel="optimizer step")
    figure.suptitle(title)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return png.getvalue()


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with those before it, which weigh KEPT of the one after them each."""
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = KEPT * total + value, KEPT * weight + 1
        means.append(total / weight)
    return means


def _points(rows: Iterable[Mapping[str, object]], key: str) -> tuple[list[int], list[float]]:
    """Steps, and what was measured after each; shares in percent, as the terminal has them."""
    scale = 100 if key.endswith("accuracy") else 1
    # A run that went on from an earlier step has some rows of speed.jsonl twice.
    found = sorted(
        {
            step: scale * value
            for row in rows
            if isinstance(value := row.get(key), int | float) and isinstance(step := row["step"], int)
        }.items()
    )
    return [step for step, _ in found], [value for _, value in found]
