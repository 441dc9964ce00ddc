"""curves.png, looked at as a figure and as a picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cluster.run.curves import draw, smoothed

ROWS: list[dict[str, Any]] = [
    *({"step": n, "loss": 2 + (-1) ** n / n, "accuracy": n / 100, "lr": 0.1, "grad_norm": None} for n in range(1, 41)),
    *({"step": n, "images_per_second": 100.0 + n} for n in range(1, 41)),
    {"step": 7, "images_per_second": 500.0},  # of a start that went on from step 6
    *({"step": n, "eval_accuracy": n / 80, "eval_loss": 1.5} for n in (20, 40)),
]


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> Figure:
    """What `draw` makes of the rows, which it saves as a picture."""
    made: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *given, **more: (made.append(self), save(self, *given, **more)))
    draw(ROWS, "a run", epoch_steps=20)
    return made[0]


def test_each_measurement_has_a_plot_in_the_terminals_units(figure: Figure) -> None:
    loss, accuracy, speed, lr, firing, norm = figure.axes
    labels = ["loss", "accuracy (%)", "images/s", "learning rate", "firing rate", "norm of the gradient"]
    assert [axis.get_ylabel() for axis in figure.axes] == labels
    raw, smooth, test = accuracy.lines
    assert raw.get_ydata()[-1] == 40.0 and list(test.get_xdata()) == [20, 40] and list(test.get_ydata()) == [25.0, 50.0]
    assert list(smooth.get_ydata()) == smoothed(list(raw.get_ydata()))
    assert smooth.get_alpha() is None and raw.get_alpha() < 0.5
    assert speed.lines[0].get_ydata()[6] == 500.0 and len(speed.lines[0].get_ydata()) == 40
    assert not norm.lines and not firing.lines and len(loss.lines) == 3 and len(lr.lines) == 2


def test_epochs_are_above_and_steps_below(figure: Figure) -> None:
    for axis in figure.axes[:3]:
        (above,) = axis.child_axes
        low, high = axis.get_xlim()
        assert above.get_xlabel() == "epoch" and above.get_xlim() == pytest.approx((low / 20, high / 20))
    assert {axis.get_xlabel() for axis in figure.axes[3:]} == {"optimizer step"}


def test_a_smoothed_line_lies_within_the_raw_one_and_starts_on_it() -> None:
    values = [2.0 + (-1) ** n for n in range(200)]
    line = smoothed(values)
    assert line[0] == values[0] and smoothed([5.0] * 9) == pytest.approx([5.0] * 9)
    assert all(1 <= value <= 3 for value in line) and max(abs(value - 2) for value in line[-50:]) < 0.1


def test_the_picture_is_drawn_also_before_the_first_row() -> None:
    empty, drawn = (np.asarray(Image.open(io.BytesIO(draw(rows, "a run", 20.0))).convert("RGB")) for rows in ([], ROWS))
    assert drawn.shape == empty.shape == (700, 1400, 3)
    blue = [int((abs(picture.astype(int) - [31, 119, 180]).sum(2) < 30).sum()) for picture in (empty, drawn)]
    assert blue[1] > 500 > blue[0]
