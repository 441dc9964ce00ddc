"""Measurements as people read them."""

from __future__ import annotations

import pytest

from cluster.run.words import duration, worded


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("accuracy", 0.931, "accuracy 93.10 %"),
        ("eval_accuracy", 1, "eval accuracy 100.00 %"),
        ("dead", 0.125, "dead channels 12.5 %"),
        ("loss", 0.25, "loss 0.25"),
        ("lr", 1e-05, "learning rate 1e-05"),
        ("loss_scale", 65536.0, "loss scale 2^16"),
        ("loss_scale", 3.0, "loss scale 3"),
        ("data_wait_seconds", 61.0, "data wait 1 min 01 s"),
        ("mfu", 0.1234, "MFU 12.3 %"),
        ("tflops", 1.25, "1.25 TFLOP/s"),
        ("images_per_second", 12.4, "12 images/s"),
        ("step", 7, "step 7"),
        ("loss", None, "loss None"),
    ],
)
def test_a_measurement_has_its_name_and_unit(key: str, value: object, said: str) -> None:
    assert worded(key, value) == said


def test_a_time_has_two_units_at_most() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3599, 3601, 90_061)] == [
        *("0 s", "1 min 00 s", "59 min 59 s", "1 h 00 min", "25 h 01 min")
    ]
