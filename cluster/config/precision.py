"""What a step computes in: the choices of `train.precision`, and what follows from each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """What convolutions and linear layers compute in; the rest stays in fp32. autocast: the name of torch's type; None:
    fp32, without autocast. scaled: its range is too small for gradients, so the loss is scaled."""

    name: str
    autocast: str | None = None
    scaled: bool = False

    @property
    def short(self) -> bool:
        """Whether its numbers have two bytes."""
        return self.autocast is not None


FULL = Precision("fp32")
PRECISIONS = {one.name: one for one in (FULL, Precision("bf16", "bfloat16"), Precision("fp16", "float16", scaled=True))}
