"""Numbers as people read them: in the terminal, in lines and in curves alike."""

from __future__ import annotations

import math


def worded(key: str, value: object) -> str:
    """A measurement and its name: `accuracy 93.10 %`, `loss 0.25`, `12 images/s`, `loss scale 2^16`."""
    name = {"lr": "learning rate"}.get(key, key.replace("_", " "))
    if not isinstance(value, int | float):
        return f"{name} {value}"
    if key.endswith("accuracy"):
        return f"{name} {100 * value:.2f} %"
    if key == "dead":
        return f"dead channels {100 * value:.1f} %"
    if key.endswith("seconds"):
        return f"{name.removesuffix(' seconds')} {duration(value)}"
    if key == "loss_scale" and math.frexp(value)[0] == 0.5:
        return f"{name} 2^{round(math.log2(value))}"
    if key in ("mfu", "hfu"):
        return f"{key.upper()} {100 * value:.3g} %"
    if key == "tflops":
        return f"{value:.3g} TFLOP/s"
    if key == "images_per_second":
        return f"{value:.0f} images/s"
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
