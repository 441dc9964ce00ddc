"""What a recipe says of how samples are seen and augmented; each kind of sample takes what is for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class AugmentSettings:
    """Of training; see `views.boxes.View` for scale and ratio, `views.augment.Augment` for the others. events:
    whether frames of events are changed by more than a flip, see `views.frames.EventAugment`."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 0
    flip: float = 0.0
    rand_augment: str | None = None
    rand_augment_ops: Sequence[str] | None = None
    color_jitter: float = 0.0
    erasing: float = 0.0
    erasing_mode: str = "black"
    events: bool = False


@dataclass(frozen=True)
class Settings:
    """size: pixels a side of what is seen, None: as samples are. crop_ratio: see `views.boxes.View`; frames: see `by`
    of `views.frames.integrate`; time_steps: T of the model; seed: of all draws."""

    size: int | None = None
    crop_ratio: float = 0.875
    frames: str = "count"
    time_steps: int = 4
    seed: int = 0
    augment: AugmentSettings = field(default_factory=AugmentSettings)


OF_A_KIND = frozenset({"crop_ratio", "frames", *(f"augment.{one.name}" for one in fields(AugmentSettings))})
"""The settings that are not for every kind of sample, by their names in a configuration's `data`."""
