"""What the clock says of steps."""

from __future__ import annotations

import pytest

from cluster.run.speed import WARM_UP, Lap, Pace


def test_laps_add_up() -> None:
    lap = Lap(128, 0.5, 0.1) + Lap(128, 1.5, 0.1)
    assert lap.row() == {"images": 256, "seconds": 2.0, "images_per_second": 128.0, "data_wait_seconds": 0.2}
    assert Lap.of([lap.row(), lap.row()]) == Lap(512, 4.0, 0.4)
    assert Lap().rate == 0.0


def test_the_first_steps_say_nothing_of_what_is_left() -> None:
    pace = Pace()
    for _ in range(WARM_UP):
        pace.add(100.0)
        assert pace.left(10) is None
    pace.add(2.0)
    assert pace.left(10) == 20.0


def test_one_slow_step_moves_it_little_and_lasting_ones_move_it() -> None:
    pace = Pace()
    for _ in range(100):
        pace.add(1.0)
    pace.add(10.0)
    assert pace.left(1) == pytest.approx(1.0 + 9 * 0.05, rel=0.01)
    for _ in range(100):
        pace.add(2.0)
    assert pace.left(1) == pytest.approx(2.0, rel=0.02)
