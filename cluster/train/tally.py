"""What an evaluation counts beside accuracy and loss: the five likeliest classes, and which is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.loader import NOT_COUNTED

TOP = 5


class Tally:
    """confusion `[K, K]`, K the outputs of the model: samples of each class (row) that were taken for each (column).
    names: of the classes, which may be fewer than the outputs."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.confusion = torch.zeros(0, 0, dtype=torch.int64)
        self.among = 0
        """Samples whose class is among the TOP likeliest."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """A batch: logits `[B, K]`, labels `[B]`."""
        counted = labels != NOT_COUNTED
        logits, labels = logits[counted], labels[counted]
        outputs = logits.shape[1]
        if not self.confusion.numel():
            self.confusion = self.confusion.new_zeros(outputs, outputs)
        pairs = (labels * outputs + logits.argmax(1)).bincount(minlength=outputs**2)
        self.confusion += pairs.view(outputs, outputs).cpu()
        best = logits.topk(min(TOP, outputs)).indices
        self.among += int((best == labels[:, None]).sum())

    @property
    def samples(self) -> int:
        return int(self.confusion.sum())

    def row(self) -> dict[str, float]:
        """What a line of results says of it: `top5`, the share of samples whose class is among the five likeliest; of
        at most five classes nothing."""
        return {"top5": self.among / self.samples} if len(self.confusion) > TOP else {}

    def name(self, number: int) -> str:
        return self.names[number] if number < len(self.names) else str(number)
