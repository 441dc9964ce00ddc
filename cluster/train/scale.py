"""The loss scale of fp16."""

from __future__ import annotations

from dataclasses import dataclass

GROWTH, BACKOFF = 2.0, 0.5
"""Powers of two: gradients are those of no scale, but for what leaves fp16's range."""
LEAST, MOST = 1.0, 2.0**127


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by, so that gradients do not vanish below fp16's smallest number, 6e-8, and the fp32
    gradients of the weights are divided by (Micikevicius et al., arXiv 1710.03740).

    It moves as that of torch.amp.GradScaler: halved where a gradient is not finite, doubled after so many finite ones
    in a row; but it does not fall below 1. value: of the next step; finite: how many there were since it moved.
    """

    value: float
    finite: int = 0

    @property
    def least(self) -> bool:
        """Whether it cannot be halved: fp16 overflows without it."""
        return self.value <= LEAST

    def after(self, finite: bool, interval: int) -> LossScale:
        """The scale after a step whose gradient was `finite`, or was not."""
        if not finite:
            return LossScale(max(LEAST, self.value * BACKOFF))
        if self.finite + 1 < interval:
            return LossScale(self.value, self.finite + 1)
        return LossScale(self.value * GROWTH if self.value * GROWTH <= MOST else self.value)
